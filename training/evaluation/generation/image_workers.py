"""Missing images are made by several processes, each with a device of its own: GPUs, or shares of the CPU's cores.

A process takes one person of one method at a time, so that all are busy to the end. Records are files of a person and
a method, of which no two processes write the same.
"""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import Queue, active_children, get_context

import torch

from difflora_core.command_line import silence_library_logs
from training.engine.processes import end_with_parent

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


def worker_devices(device: str | None, named: int | None) -> list[WorkerDevice]:
    """Return the devices of several processes; none, if the command's own process makes the images.

    Args:
        device: That the command names; cuda and cpu are shared out.
        named: How many processes the command names; None: one for each GPU, unless a device is named.

    Raises:
        ValueError: There are not so many GPUs or cores, or one GPU is named.
    """
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    workers = (gpus if device is None else 1) if named is None else named
    if workers == 1 or (named is None and not gpus):
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
    missing, context = generation.missing, get_context("spawn")
    if not missing:
        return
    free, processes = context.Queue(), min(len(devices), len(missing))
    for device in devices:
        free.put(device)
    start = (generation.settings, keep, processes, free)
    with (
        progress_bar(sum(plan.missing for plan in generation.plans)) as progress,
        ProcessPoolExecutor(processes, context, _Worker.start, start) as pool,
    ):
        others = active_children()
        jobs = {pool.submit(_Worker.generate, plan.name, who.name): plan.missing_of(who) for plan, who in missing}
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

    def __init__(self, generation: ImageGeneration) -> None:
        self.generation = generation
        self.plans = {plan.name: plan for plan in generation.plans}
        self.people = {person.name: person for person in generation.people}
        self.before: MethodPlan | None = None

    @classmethod
    def start(cls, settings: EvaluationSettings, keep: bool, processes: int, free: "Queue[WorkerDevice]") -> None:
        """Take a device, and plan as the command has."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends its processes
        end_with_parent()
        silence_library_logs()
        device = free.get()
        torch.set_num_threads(device.threads)
        cls.current = cls(ImageGeneration(settings, device.name, keep, processes))

    @classmethod
    def generate(cls, method: str, person: str) -> None:
        """Make a person's missing images by a method."""
        own = cls.current
        plan = own.plans[method]
        own.generation.release_others(own.before, plan)
        own.before = plan
        for _ in own.generation.generate_person(plan, own.people[person]):
            pass
