"""Missing images are made by several processes, each with a device of its own: GPUs, or shares of the CPU's cores.

A process takes one person of one method at a time, so that all are busy to the end. Records are files of a person and
a method, of which no two processes write the same. Workflows of a server are queued by the command's own process
afterwards: prompts of several people in turn would make the server compute again what it keeps of a person.
"""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import Queue, active_children, get_context

import torch
from tqdm import tqdm

from difflora_core.command_line import silence_library_logs
from training.engine.processes import end_with_parent

from ..people_folders import EvaluatedPerson
from ..settings import EvaluationSettings
from .image_generation import ImageGeneration, progress_bar
from .method_plans import MethodPlan


@dataclass(frozen=True)
class WorkerDevice:
    """What a process computes with."""

    name: str
    """As torch names it."""
    threads: int
    """Of the CPU."""


def worker_devices(device: str | None, workers: int | None) -> list[WorkerDevice]:
    """Return the devices of several processes; none, if the command's own process makes the images.

    Args:
        device: That the command names; cuda and cpu are shared out.
        workers: How many processes the command names; None: one for each GPU, unless a device is named.

    Raises:
        ValueError: There are not so many GPUs or cores, or one GPU is named.
    """
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if workers is None:
        workers = max(1, gpus) if device is None else 1
    if workers == 1:
        return []
    kind = device or ("cuda" if gpus else "cpu")
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"--workers {workers} with --device {kind}: expected --device cuda, all GPUs, or cpu")
    found = gpus if kind == "cuda" else cores
    if not 1 <= workers <= found:
        what = "GPUs" if kind == "cuda" else "CPU cores"
        raise ValueError(f"--workers {workers}: found {found} {what}, expected 1 to {found}, at most one for each")
    threads = max(1, cores // workers)
    return [WorkerDevice(f"cuda:{number}" if kind == "cuda" else "cpu", threads) for number in range(workers)]


def generate_on(devices: Sequence[WorkerDevice], generation: ImageGeneration, keep: bool) -> None:
    """Make what is missing, with a progress bar; somebody whom a method can't do is noted and left out.

    Args:
        devices: A process for each.
        generation: What is to be made; nothing is loaded here.
        keep: As of `ImageGeneration`.

    Raises:
        RuntimeError: A method failed for another reason than the person, or a process was ended from outside.
    """
    with progress_bar(generation.plans) as progress:
        if shared := [(plan, who) for plan, who in generation.missing if not plan.is_on_server]:
            _share_out(shared, devices, generation.settings, keep, progress)
        generation.generate_people([pair for pair in generation.missing if pair[0].is_on_server], progress)


def _share_out(
    pairs: Sequence[tuple[MethodPlan, EvaluatedPerson]],
    devices: Sequence[WorkerDevice],
    settings: EvaluationSettings,
    keep: bool,
    progress: "tqdm[None]",
) -> None:
    """Make the missing images of these methods and people in a process for each device; see `generate_on`."""
    context, processes = get_context("spawn"), min(len(devices), len(pairs))
    free = context.Queue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(processes, context, _Worker.start, (settings, keep, processes, free)) as pool:
        others = active_children()
        jobs = {pool.submit(_Worker.generate, plan.name, who.name): plan.missing_of(who) for plan, who in pairs}
        try:
            for job in as_completed(jobs):
                job.result()
                progress.update(jobs[job])
        except BaseException as error:
            for process in active_children():  # the pool itself would wait until they have ended what they are at
                if process not in others:
                    process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "a process that makes images was ended, by another program or for lack of memory. Run the same "
                    "command again, with fewer --workers if memory is short: images that are made are kept"
                ) from error
            raise


class _Worker:
    """What one of the processes holds."""

    current: "_Worker"

    def __init__(self, device: WorkerDevice, settings: EvaluationSettings, keep: bool, processes: int) -> None:
        self.device, self.settings, self.keep, self.processes = device, settings, keep, processes
        self.before: MethodPlan | None = None

    @classmethod
    def start(cls, settings: EvaluationSettings, keep: bool, processes: int, free: "Queue[WorkerDevice]") -> None:
        """Take a device. Nothing is done here that may fail: the pool would not say why."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends its processes
        end_with_parent()
        silence_library_logs()
        cls.current = cls(free.get(), settings, keep, processes)

    @cached_property
    def generation(self) -> ImageGeneration:
        """What is to be made, planned as the command has, on this process's device."""
        use_device(self.device)
        return ImageGeneration(self.settings, self.device.name, self.keep, self.processes)

    @classmethod
    def generate(cls, method: str, person: str) -> None:
        """Make a person's missing images by a method."""
        own = cls.current
        plan = next(plan for plan in own.generation.plans if plan.name == method)
        who = next(who for who in own.generation.people if who.name == person)
        own.generation.release_others(own.before, plan)
        own.before = plan
        for _ in own.generation.generate_person(plan, who):
            pass


def use_device(device: WorkerDevice) -> None:
    """Make this process compute with a device; its GPU is also that of libraries which name none."""
    torch.set_num_threads(device.threads)
    if device.name.startswith("cuda"):
        torch.cuda.set_device(device.name)
