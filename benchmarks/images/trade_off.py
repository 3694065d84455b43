"""Likeness and prompt fidelity over guidance and strength, for DiffLoRA and teachers, on validation people.

    python -m benchmarks.images.trade_off [--people 16] [--figure benchmarks/images/trade_off.png]

With hybrid guidance (side `positive`) the LoRA acts on the prompt's side of guidance alone.
"""

import argparse
from collections.abc import Mapping
from itertools import product
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
SIDES: tuple[Side, ...] = ("positive", "both")
METRICS = ("likeness", "prompt fidelity")
Metrics = dict[str, float]
"""Of one LoRA, side, strength and guidance: likeness (face similarity) and prompt fidelity."""
Measured = dict[tuple[Side, float], list[Metrics]]
"""By side and strength, one for each of `GUIDANCES`."""


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--figure", type=Path, default=Path("benchmarks/images/trade_off.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people, layout = EvaluatedPeople("validation", arguments.people, 1, find_tokenizer()), lora_layout()
    loras = {"DiffLoRA": people.loras(DiffLoRA.load(DIFFLORA_CHECKPOINT)), "teacher": people.teachers()}
    measured: dict[str, Measured] = {}
    print("| | side | strength | guidance | likeness | fidelity |\n|---|---|---|---|---|---|")
    for name, flat in loras.items():
        found = measured.setdefault(name, {})
        for side, strength in tqdm(list(product(SIDES, STRENGTHS)), desc=name):
            scaled = at_strength(layout, flat, strength)
            found[side, strength] = [measure(people, scaled, side, guidance) for guidance in GUIDANCES]
            for guidance, metrics in zip(GUIDANCES, found[side, strength], strict=True):
                numbers = f"{metrics['likeness']:.3f} | {metrics['prompt fidelity']:.3f}"
                tqdm.write(f"| {name} | {side} | {strength} | {guidance} | {numbers} |")
    draw_panels(arguments.figure, [panel(name, metric, measured) for name in measured for metric in METRICS])


def at_strength(layout: LoRALayout, flat: Tensor, strength: float) -> Tensor:
    """Scale what LoRAs (people, numel) add to the weights."""
    factors = layout.unflatten(flat)
    return layout.flatten({name: (down, strength * up) for name, (down, up) in factors.items()})


def measure(people: EvaluatedPeople, loras: Tensor, side: Side, guidance: float) -> Metrics:
    """Generate images and measure them."""
    used = people.evaluation
    images = generate_images(
        used.base, used.vae, used.tokenizer, lora_layout(), loras, used.scenes, used.seed, side, guidance
    )
    likeness = [face_similarity(own, refs).mean() for own, refs in zip(images, people.references, strict=True)]
    fidelity = [prompt_fidelity(own, used.scenes).mean() for own in images]
    return {"likeness": float(np.mean(likeness)), "prompt fidelity": float(np.mean(fidelity))}


def panel(name: str, metric: str, measured: Mapping[str, Measured]) -> Panel:
    """Draw a metric of a LoRA over guidance: a color for each strength, dashed where it acts on both sides.

    The axis is the same for all LoRAs.
    """
    values = [metrics[metric] for found in measured.values() for row in found.values() for metrics in row]
    lines = []
    for (side, strength), row in measured[name].items():
        points = [(guidance, *[metrics[metric]] * 3) for guidance, metrics in zip(GUIDANCES, row, strict=True)]
        lines.append(Line(f"{side}, strength {strength}", STRENGTHS.index(strength), side == "both", points))
    return Panel(
        f"{name}: {metric}", "guidance scale", lines, logarithmic=False, range=(min(values) - 0.01, max(values))
    )


if __name__ == "__main__":
    main()
