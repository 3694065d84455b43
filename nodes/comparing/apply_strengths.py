"""Apply LoRA at Several Strengths: one model for each strength, for images side by side."""

import math
import re
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..apply_lora import apply_to_side, side_input
from ..patching.lora_patches import fitting_patches
from ..sockets import CATEGORY, node_schema, show_text

MAX_STRENGTH, MAX_COUNT = 10.0, 32
EXAMPLE = "0, 0.5, 1"
DECIMAL_COMMA = re.compile(r"\d,\d")
"""What may be one number, in the writing of many countries, or the end of one and the start of the next."""


class ApplyStrengths(io.ComfyNode):
    """Patch a model once for each strength; the nodes that follow run once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAApplyStrengths",
            display_name="Apply LoRA at Several Strengths",
            category=CATEGORY,
            description="Applies a LoRA to a model at several strengths. The nodes that follow run once for each: with "
            "Image Grid with Labels, the images are shown side by side.",
            search_aliases=["compare", "XY plot", "strength grid", "with and without LoRA", "LoRA weight"],
            has_intermediate_output=True,
            advanced=["side"],
            inputs=[
                io.Model.Input("model", tooltip="The base model that the LoRA was made for."),
                io.LoraModel.Input("lora", tooltip="From Decode LoRA, or any LORA_MODEL."),
                io.String.Input(
                    "strengths",
                    default=EXAMPLE,
                    tooltip="Numbers with a comma and a space between them, decimals with a point. 0 is without the "
                    "LoRA, 1 is the LoRA unchanged.",
                ),
                side_input(),
            ],
            outputs=[
                io.Model.Output(
                    "models", display_name="MODEL", tooltip="The model with the LoRA, once each.", is_output_list=True
                ),
                io.String.Output(
                    "labels",
                    display_name="labels",
                    tooltip="The strength of each, for Image Grid with Labels.",
                    is_output_list=True,
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        """Check the numbers when the workflow is queued; None are numbers that come over a link."""
        try:
            parse_strengths(EXAMPLE if strengths is None else strengths)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, lora: Mapping[str, Tensor], strengths: str, side: str = "both") -> io.NodeOutput:
        """Patch clones: the incoming model is another node's cached output."""
        values = parse_strengths(strengths)
        patches, modules = fitting_patches(model, lora, True)
        models = []
        for strength in values:
            models.append(model.clone())
            apply_to_side(models[-1], patches, dict.fromkeys(patches, strength), side)
        labels = [f"strength {strength:g}" if strength else "without LoRA" for strength in values]
        description = f"{modules} modules patched{', positive side' if side == 'positive' else ''}: {', '.join(labels)}"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(models, labels, ui=ui.PreviewText(description))


def parse_strengths(entered: str) -> list[float]:
    """Read strengths, with commas between them.

    A comma right between two digits is refused where no point tells that it is no decimal comma.

    Raises:
        ValueError: One is no number in the range or may be two, or there are none or too many.
    """
    for group in entered.split():
        if DECIMAL_COMMA.search(group) and "." not in group:
            raise ValueError(
                f"`strengths` has {group.strip(',')!r}, in which a comma may be a decimal one: write decimals with a "
                f"point, and a space after the comma between two numbers, such as {EXAMPLE}"
            )
    parts = [part.strip() for part in entered.replace("\n", ",").split(",") if part.strip()]
    if not 1 <= len(parts) <= MAX_COUNT:
        raise ValueError(f"`strengths` has {len(parts)} numbers; enter 1 to {MAX_COUNT}, such as {EXAMPLE}")
    return [_strength(part) for part in parts]


def _strength(part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_STRENGTH:
        limits = f"from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
        raise ValueError(
            f"`strengths` has {part!r}; enter numbers {limits} with commas between them, such as {EXAMPLE}"
        )
    return value
