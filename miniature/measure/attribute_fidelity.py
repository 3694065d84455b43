"""Prompt fidelity as a metric of the evaluation: the share of a prompt's attributes that the judge finds.

Attributes that a prompt does not name have their default: no hat is expected where none is named.
"""

from collections.abc import Mapping
from typing import Any

from miniature.world.scenes import Scene
from training.evaluation.metrics.metric import Better, Description, PersonSample, Scores
from training.evaluation.metrics.pixels import rgb_images

from .judge import ATTRIBUTES
from .metrics import prompt_fidelity

COLUMN = "prompt fidelity"
BACKGROUND = " background"
SUBJECT = "a portrait of a "


def scene_of(prompt: str) -> Scene:
    """Return the scene that a prompt names, its attributes in any order.

    Raises:
        ValueError: It has a part that is no attribute.
    """
    subject, *parts = prompt.split(", ")
    if not subject.startswith(SUBJECT):
        raise ValueError(f"the prompt {prompt!r} begins with {subject!r}, expected {SUBJECT.strip()} …")
    attributes: dict[str, Any] = {}
    for part in parts:
        word = part.removesuffix(BACKGROUND)
        names = ["background"] if word != part else [name for name in ATTRIBUTES if name != "background"]
        name = next((name for name in names if word and word in ATTRIBUTES[name]), None)
        if name is None:
            raise ValueError(f"the prompt {prompt!r} has the part {part!r}, which names nothing that the judge knows")
        attributes[name] = word
    return Scene(**attributes)


class AttributeFidelity:
    """Prompt fidelity by the shipped judge."""

    columns: Mapping[str, Better] = {COLUMN: "higher"}
    description = Description(
        model="attribute judge, miniature/weights/judge.safetensors",
        layer="largest logit of each attribute's head; share of the attributes that are as in the prompt",
        preprocessing="128 px, [0, 1]",
        source="ours; the judge was trained on drawn images, for nothing else",
    )

    def score(self, sample: PersonSample) -> Scores:
        """Measure a person's images of 128 × 128 pixels.

        Raises:
            ValueError: An image can't be used, or a prompt names something that the judge does not know.
        """
        return {COLUMN: prompt_fidelity(rgb_images(sample.images), [scene_of(prompt) for prompt in sample.prompts])}
