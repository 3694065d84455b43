"""People per hour: many LoRAs in one batch, against one at a time, against the loop of diffusers and PEFT.

    python -m benchmarks.teachers_per_batch [--people 4 16] [--steps 3] [--threads 1]

Equal work per person: rank 4 on attention and feed-forward layers, four rows per step, cached latents and text
embeddings, AdamW. The base model is the miniature's, untrained, since time does not depend on weights. The PEFT loop is
the training step of diffusers' DreamBooth LoRA script for SDXL without what doesn't concern it (logging, saving).
Prints ratios of one run; loading is not counted.
"""

import argparse
import json
import time
from statistics import median

import torch
import torch.nn.functional as F
from peft import LoraConfig

from miniature.base import BaseModel, Condition, Tokenizer, noise_scheduler
from miniature.host import find_host
from miniature.people import caption
from miniature.teachers import layout, teacher_scene, train_teachers
from training.denoising import loss_target
from training.dreambooth import DreamBoothConfig

ROWS, PICTURES = 4, 16


def ours(base: BaseModel, tokenizer: Tokenizer, people: int, steps: int) -> float:
    """Wall seconds of one optimiser step divided by the people in it."""
    latents = torch.randn(people, PICTURES, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    train_teachers(base, tokenizer, latents, DreamBoothConfig(steps=steps, rows=ROWS))
    return (time.perf_counter() - start) / steps / people


def with_peft(tokenizer: Tokenizer, steps: int) -> float:
    """Wall seconds of one optimiser step of one person's LoRA with PEFT's layers in a frozen diffusers U-Net."""
    base = BaseModel().requires_grad_(False)
    names = [module.name for module in layout().modules]
    base.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=names))
    factors = [parameter for parameter in base.unet.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(factors, lr=1e-4)
    scheduler, dice = noise_scheduler(), torch.Generator().manual_seed(0)
    latents = torch.randn(PICTURES, 4, 16, 16, generator=dice)
    with torch.no_grad():
        text = base.encode(tokenizer([caption(teacher_scene(number)) for number in range(PICTURES)]))
    base.unet.train()
    start = time.perf_counter()
    for _ in range(steps):
        picks = torch.randint(0, PICTURES, (ROWS,), generator=dice)
        clean, noise = latents[picks], torch.randn(ROWS, 4, 16, 16, generator=dice)
        timesteps = torch.randint(0, 1000, (ROWS,), generator=dice)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        output = base.predict(noisy, timesteps, Condition(text.context[picks], text.pooled[picks]))
        F.mse_loss(output, loss_target(scheduler, clean, noise, timesteps)).backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Measure in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = Tokenizer(find_host() / "comfy" / "sd1_tokenizer")
    base = BaseModel().eval().requires_grad_(False)
    ours(base, tokenizer, 1, 1)  # warm-up
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        seconds.setdefault("peft", []).append(with_peft(tokenizer, 4 * arguments.steps))
        for people in (1, *arguments.people):
            steps = arguments.steps * (4 if people == 1 else 1)
            seconds.setdefault(f"ours, {people}", []).append(ours(base, tokenizer, people, steps))
    each = {name: median(times) for name, times in seconds.items()}
    figures = {
        name: {
            "ms per person-step": round(1000 * time, 1),
            "times the PEFT loop": round(each["peft"] / time, 2),
            "times our K = 1": round(each["ours, 1"] / time, 2),
        }
        for name, time in each.items()
    }
    print(json.dumps({"threads": arguments.threads, **figures}, indent=1))


if __name__ == "__main__":
    main()
