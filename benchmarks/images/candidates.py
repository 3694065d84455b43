"""How much candidates of one person differ at a temperature: spread of likeness and of latents, and the best of some.

    python -m benchmarks.images.candidates [--people 16] [--candidates 4] [--temperatures 0 0.1 0.2 0.4 0.7]

On validation people. `chosen` is the mean likeness of the candidate that is best for a person on one half of the
scenes, measured on the other half, both ways, so that it is of the same scenes as `likeness`.
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluated_people import EvaluatedPeople


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.4, 0.7])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, people = (
        DiffLoRA.load(DIFFLORA_CHECKPOINT),
        EvaluatedPeople("validation", arguments.people, 1, find_tokenizer()),
    )
    condition = model.mif(people.face, people.image)[0]
    print(f"{len(people.indices)} validation people, {arguments.candidates} candidates of each\n")
    print("| temperature | likeness | spread | chosen | fidelity | spread of latents |\n|---|---|---|---|---|---|")
    for temperature in tqdm(arguments.temperatures):
        latents = torch.stack(
            [candidate(model, condition, number, temperature) for number in range(arguments.candidates)]
        )
        print("| " + " | ".join(f"{value:.3f}" for value in (temperature, *measure(people, model, latents))) + " |")


def candidate(model: DiffLoRA, condition: Tensor, seed: int, temperature: float) -> Tensor:
    """Latents of all people (people, tokens, width) with this seed."""
    generators = [torch.Generator().manual_seed(seed) for _ in condition]
    return model.sample(condition, generator=generators, temperature=temperature)


def measure(people: EvaluatedPeople, model: DiffLoRA, latents: Tensor) -> tuple[float, ...]:
    """Measure candidates (candidates, people, tokens, width).

    Returns:
        Mean likeness; mean standard deviation of a person's candidates; mean likeness of the chosen ones; prompt
        fidelity; root mean square of the latents' deviation from the person's mean.
    """
    evaluation = people.evaluation
    images = [evaluation.generate(model.decode(own)) for own in latents]
    likeness = np.stack([evaluation.similarities(made) for made in images])  # (candidates, people, scenes)
    fidelity = np.mean([evaluation.fidelities(made) for made in images])
    deviation = (latents - latents.mean(0)).square().mean().sqrt()
    spread = likeness.mean(2).std(0).mean()
    return float(likeness.mean()), float(spread), chosen_likeness(likeness), float(fidelity), float(deviation)


def chosen_likeness(likeness: np.ndarray) -> float:
    """Mean likeness of each person's candidate that is best on the other half of the scenes, over all scenes.

    Args:
        likeness: Of every image (candidates, people, scenes).
    """
    halves = np.array_split(likeness, 2, axis=2)
    measured = [
        np.take_along_axis(other, own.mean(2).argmax(0)[None, :, None], axis=0)[0]
        for own, other in (halves, reversed(halves))
    ]
    return float(np.concatenate(measured, axis=1).mean())


if __name__ == "__main__":
    main()
