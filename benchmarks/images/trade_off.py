"""Likeness against prompt fidelity over guidance and strength, for DiffLoRA and teachers, on validation people.

    python -m benchmarks.images.trade_off [--people 16] [--figure benchmarks/images/trade_off.png]

With hybrid guidance (side `positive`) the LoRA acts on the prompt's side of guidance alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.lora.layout import LoRALayout
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.base_model.sampling import Side, generate_images
from miniature.comfyui.host import find_tokenizer
from miniature.measure.metrics import face_similarity, prompt_fidelity
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluated_people import EvaluatedPeople
from training.engine.charts import Line, Panel, draw_panels

GUIDANCES = (1.5, 2.0, 3.0, 4.0, 5.0)
STRENGTHS = (0.8, 1.0, 1.25)
Point = tuple[float, float]
"""Prompt fidelity and face similarity."""


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--figure", type=Path, default=Path("benchmarks/images/trade_off.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people, layout = EvaluatedPeople("validation", arguments.people, 1, find_tokenizer()), lora_layout()
    loras = {"DiffLoRA": people.loras(DiffLoRA.load(DIFFLORA_CHECKPOINT)), "teacher": people.teachers()}
    panels = []
    print("| | side | strength | guidance | likeness | fidelity |\n|---|---|---|---|---|---|")
    for name, flat in loras.items():
        lines = []
        sides: tuple[Side, ...] = ("both", "positive")
        for color, side in enumerate(sides):
            for strength in tqdm(STRENGTHS, desc=f"{name}, {side}"):
                scaled = at_strength(layout, flat, strength)
                points = [measure(people, scaled, side, guidance) for guidance in GUIDANCES]
                for guidance, (fidelity, likeness) in zip(GUIDANCES, points, strict=True):
                    print(f"| {name} | {side} | {strength} | {guidance} | {likeness:.3f} | {fidelity:.3f} |")
                lines.append(line(f"{side}, strength {strength}", color, strength != 1.0, points))
        low = min(point[1] for one in lines for point in one.points)
        panels.append(Panel(name, "prompt fidelity", lines, logarithmic=False, range=(low - 0.02, 1.0)))
    draw_panels(arguments.figure, panels)


def at_strength(layout: LoRALayout, flat: Tensor, strength: float) -> Tensor:
    """Scale what LoRAs (people, numel) add to the weights."""
    factors = layout.unflatten(flat)
    return layout.flatten({name: (down, strength * up) for name, (down, up) in factors.items()})


def measure(people: EvaluatedPeople, loras: Tensor, side: Side, guidance: float) -> Point:
    """Generate images and measure them."""
    used = people.evaluation
    images = generate_images(
        used.base, used.vae, used.tokenizer, lora_layout(), loras, used.scenes, used.seed, side, guidance
    )
    likeness = [face_similarity(own, refs).mean() for own, refs in zip(images, people.references, strict=True)]
    return float(np.mean([prompt_fidelity(own, used.scenes).mean() for own in images])), float(np.mean(likeness))


def line(name: str, color: int, dashed: bool, points: list[Point]) -> Line:
    """Draw likeness over fidelity."""
    return Line(name, color, dashed, [(x, y, y, y) for x, y in sorted(points)])


if __name__ == "__main__":
    main()
