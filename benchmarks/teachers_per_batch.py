"""What training many people's LoRAs in one batch saves: time per person and step, as ratios to one person alone.

    python -m benchmarks.teachers_per_batch [--people 1 4 16] [--steps 3]

Every person has four rows; the base model is the miniature's, untrained, since time does not depend on weights.
"""

import argparse
import time

import torch

from miniature.base import BaseModel, Tokenizer
from miniature.host import find_host
from miniature.teachers import train_teachers
from training.dreambooth import DreamBoothConfig


def seconds_per_person_step(base: BaseModel, tokenizer: Tokenizer, people: int, steps: int) -> float:
    """Wall seconds of one optimiser step divided by the people in it."""
    latents = torch.randn(people, 16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    config = DreamBoothConfig(steps=steps)
    start = time.perf_counter()
    train_teachers(base, tokenizer, latents, config)
    return (time.perf_counter() - start) / steps / people


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer(find_host() / "comfy" / "sd1_tokenizer")
    base = BaseModel().eval().requires_grad_(False)
    seconds_per_person_step(base, tokenizer, 1, 1)  # warm-up
    alone = seconds_per_person_step(base, tokenizer, 1, arguments.steps)
    print("people  ms per person-step  times faster than alone")
    for people in arguments.people:
        seconds = seconds_per_person_step(base, tokenizer, people, arguments.steps)
        print(f"{people:6d}  {1000 * seconds:18.1f}  {alone / seconds:23.2f}")


if __name__ == "__main__":
    main()
