"""Likeness and prompt fidelity over guidance and strength, for DiffLoRA and teachers, on validation people.

    python -m benchmarks.images.trade_off [--people 16] [--figure benchmarks/images/trade_off.png]

With hybrid guidance (side `positive`) the LoRA acts on the prompt's side of guidance alone.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.lora.layout import LoRALayout
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.base_model.sampling import Side
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluated_people import EvaluatedPeople
from training.engine.charts import Line, Panel, draw_panels

GUIDANCES = (1.5, 2.0, 3.0, 4.0, 5.0)
STRENGTHS = (0.8, 1.0, 1.25)
SIDES: tuple[Side, ...] = ("positive", "both")
TITLES = {"similarity": "likeness", "fidelity": "prompt fidelity"}
Measured = dict[tuple[Side, float], list[dict[str, float]]]
"""Metrics of a LoRA by side and strength, for each of `GUIDANCES`."""


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
            evaluations = [replace(people.evaluation, side=side, guidance=guidance) for guidance in GUIDANCES]
            found[side, strength] = [evaluation.evaluate(scaled) for evaluation in evaluations]
            for guidance, metrics in zip(GUIDANCES, found[side, strength], strict=True):
                numbers = f"{metrics['similarity']:.3f} | {metrics['fidelity']:.3f}"
                tqdm.write(f"| {name} | {side} | {strength} | {guidance} | {numbers} |")
    draw_panels(arguments.figure, [panel(name, metric, measured) for name in measured for metric in TITLES])


def at_strength(layout: LoRALayout, flat: Tensor, strength: float) -> Tensor:
    """Scale what LoRAs (people, numel) add to the weights."""
    factors = layout.unflatten(flat)
    return layout.flatten({name: (down, strength * up) for name, (down, up) in factors.items()})


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
        f"{name}: {TITLES[metric]}", "guidance scale", lines, logarithmic=False, range=(min(values) - 0.01, max(values))
    )


if __name__ == "__main__":
    main()
