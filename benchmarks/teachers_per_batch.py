"""Speed of training LoRAs of many people in one batch, against one at a time and against diffusers with PEFT.

    python -m benchmarks.teachers_per_batch [--people 4 16] [--steps 3] [--cores 2] [--rounds 3]

Equal work per person: rank 4 on attention and feed-forward layers, four images per step, cached latents and text
embeddings, AdamW. The base model is the miniature's, untrained, since time does not depend on weights. The PEFT loop is
the training step of diffusers' DreamBooth LoRA script for SDXL without logging and saving.

Everything uses the same number of cores in two ways: one process with a thread per core, and a process per core with
one thread each (`python -m training dataset dreambooth --workers N`). Loading is not counted. The last lines compare
the faster of the two ways.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
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
PEFT = 0
"""Means the PEFT loop where a number of people is expected."""


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


def measure(kind: int, steps: int, threads: int) -> float:
    """Seconds per person-step in this process, after a step that isn't counted."""
    torch.set_num_threads(threads)
    run = with_peft if kind == PEFT else lambda count: ours(kind, count)
    run(1)
    return run(steps)


def measure_processes(pool: ProcessPoolExecutor, kind: int, steps: int, processes: int) -> float:
    """Seconds per person-step of `processes` processes that run at the same time, one thread each."""
    return sum(pool.map(measure, [kind] * processes, [steps] * processes, [1] * processes)) / processes**2


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
    seconds: dict[tuple[str, str], list[float]] = {}
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as single,
        ProcessPoolExecutor(cores, get_context("spawn")) as several,
    ):
        list(several.map(measure, [1] * cores, [8] * cores, [1] * cores))  # every process has loaded its model
        for _ in range(arguments.rounds):
            for kind in (PEFT, 1, *arguments.people):
                steps = arguments.steps * most // max(1, kind)
                name = "PEFT loop" if kind == PEFT else f"ours, K = {kind}"
                for way, processes in ways.items():
                    if processes == 1:
                        time_taken = single.submit(measure, kind, steps, cores).result()
                    else:
                        time_taken = measure_processes(several, kind, steps, processes)
                    seconds.setdefault((name, way), []).append(time_taken)
    each = {key: median(times) for key, times in seconds.items()}
    best: dict[str, float] = {}
    for (name, _), value in each.items():
        best[name] = min(value, best.get(name, value))
    one_process = next(iter(ways))
    table = {
        f"{name}, {way}": {
            "ms per person-step": round(1000 * value, 1),
            "times the PEFT loop in one process": round(each["PEFT loop", one_process] / value, 2),
            "times our K = 1 in one process": round(each["ours, K = 1", one_process] / value, 2),
        }
        for (name, way), value in each.items()
    }
    ratios = {
        name: {
            "times the PEFT loop": round(best["PEFT loop"] / value, 2),
            "times our K = 1": round(best["ours, K = 1"] / value, 2),
        }
        for name, value in best.items()
    }
    print(json.dumps({"cores": cores, **table, "each in its faster way": ratios}, indent=1))


if __name__ == "__main__":
    main()
