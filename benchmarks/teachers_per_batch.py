"""Speed of training LoRAs of many people in one batch, against one at a time and against diffusers with PEFT.

    python -m benchmarks.teachers_per_batch [--people 4 16] [--steps 3] [--cores 2] [--rounds 3]

Equal work per person: rank 4 on attention and feed-forward layers, four images per step, cached latents and text
embeddings, AdamW. The base model is the miniature's, untrained, since time does not depend on weights. The PEFT loop is
the training step of diffusers' DreamBooth LoRA script for SDXL without logging and saving.

Everything uses the same number of cores in two ways: one process with a thread per core, and a process per core with
one thread each (`python -m training dataset dreambooth --workers N`). Loading, set-up and encoding the captions are not
counted. The last lines compare the faster of the two ways.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from statistics import median

import torch
import torch.nn.functional as F
from peft import LoraConfig

from miniature.base_model.config import LATENT_SHAPE, lora_layout
from miniature.base_model.model import TextCondition, TinySDXL, Tokenizer, noise_scheduler
from miniature.comfyui.host import find_tokenizer
from miniature.personal.teachers import CONFIG, train_teachers
from miniature.world.scenes import TEACHER_IMAGES, TEACHER_SCENES, caption

IMAGES_PER_STEP = 4


@cache
def frozen_base() -> tuple[TinySDXL, Tokenizer]:
    """The process's base model and tokenizer."""
    return TinySDXL().eval().requires_grad_(False), Tokenizer(find_tokenizer())


def ours(people: int, steps: int) -> float:
    """Wall seconds of one optimizer step divided by the people in it."""
    base, tokenizer = frozen_base()
    latents = torch.randn(people, TEACHER_IMAGES, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    train_teachers(base, tokenizer, latents, replace(CONFIG, steps=steps, images_per_person=IMAGES_PER_STEP))
    return (time.perf_counter() - start) / steps / people


def with_peft(steps: int) -> float:
    """Wall seconds of one optimizer step of one person's LoRA with PEFT's layers in a frozen diffusers U-Net."""
    tokenizer = frozen_base()[1]
    base = TinySDXL().requires_grad_(False)
    names = [module.name for module in lora_layout().modules]
    base.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=names))
    factors = [parameter for parameter in base.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=1e-4)
    scheduler, generator = noise_scheduler(), torch.Generator().manual_seed(0)
    latents = torch.randn(TEACHER_IMAGES, *LATENT_SHAPE, generator=generator)
    with torch.no_grad():
        text = base.encode(tokenizer([caption(scene) for scene in TEACHER_SCENES]))
    base.unet.train()
    start = time.perf_counter()
    for _ in range(steps):
        picks = torch.randint(0, TEACHER_IMAGES, (IMAGES_PER_STEP,), generator=generator)
        clean, noise = latents[picks], torch.randn(IMAGES_PER_STEP, *LATENT_SHAPE, generator=generator)
        timesteps = torch.randint(0, 1000, (IMAGES_PER_STEP,), generator=generator)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        output = base.predict(noisy, timesteps, TextCondition(text.context[picks], text.pooled[picks]))
        F.mse_loss(output, scheduler.get_velocity(clean, noise, timesteps)).backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / steps


@dataclass(frozen=True)
class Method:
    """A way of training."""

    name: str
    """In the table."""
    people: int
    """In a step."""
    run: Callable[[int], float]
    """Trains for so many steps, and returns the seconds per step and person."""


PEFT_LOOP = Method("PEFT loop", 1, with_peft)


def our_method(people: int) -> Method:
    """Make the method that trains so many people at once."""
    return Method(f"ours, K = {people}", people, partial(ours, people))


def measure(method: Method, steps: int, threads: int) -> float:
    """Seconds per person-step in this process, of the steps after a first one.

    What a run takes once, as encoding the captions, is in the time of a run of one step, too, and so in no difference.
    """
    torch.set_num_threads(threads)
    method.run(1)  # loads and warms up
    once = method.run(1)
    return (method.run(steps + 1) * (steps + 1) - once) / steps


def measure_processes(pool: ProcessPoolExecutor, method: Method, steps: int, processes: int) -> float:
    """Seconds per person-step of `processes` processes that run at the same time, one thread each."""
    jobs = [pool.submit(measure, method, steps, threads=1) for _ in range(processes)]
    return sum(job.result() for job in jobs) / processes**2


def main() -> None:
    """Measure in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=3, help="of the largest batch; smaller ones make more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    cores, most = arguments.cores, max(arguments.people)
    ways = {f"1 process of {cores} threads": 1, f"{cores} processes of 1 thread": cores}
    methods = [PEFT_LOOP, *(our_method(people) for people in (1, *arguments.people))]
    seconds: dict[tuple[str, str], list[float]] = {}
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as single,
        ProcessPoolExecutor(cores, get_context("spawn")) as several,
    ):
        measure_processes(several, our_method(1), 8, cores)  # every process has loaded its model
        for _ in range(arguments.rounds):
            for method in methods:
                steps = arguments.steps * most // method.people
                for way, processes in ways.items():
                    if processes == 1:
                        time_taken = single.submit(measure, method, steps, cores).result()
                    else:
                        time_taken = measure_processes(several, method, steps, processes)
                    seconds.setdefault((method.name, way), []).append(time_taken)
    each = {key: median(times) for key, times in seconds.items()}
    best: dict[str, float] = {}
    for (name, _), value in each.items():
        best[name] = min(value, best.get(name, value))
    one_process = next(iter(ways))
    table = {
        f"{name}, {way}": {
            "ms per person-step": round(1000 * value, 1),
            "times the PEFT loop in one process": round(each[PEFT_LOOP.name, one_process] / value, 2),
            "times our K = 1 in one process": round(each[our_method(1).name, one_process] / value, 2),
        }
        for (name, way), value in each.items()
    }
    ratios = {
        name: {
            "times the PEFT loop": round(best[PEFT_LOOP.name] / value, 2),
            "times our K = 1": round(best[our_method(1).name] / value, 2),
        }
        for name, value in best.items()
    }
    print(json.dumps({"cores": cores, **table, "each in its faster way": ratios}, indent=1))


if __name__ == "__main__":
    main()
