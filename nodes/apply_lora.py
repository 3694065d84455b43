"""Apply LoRA: patch a MODEL, or raise an error. ComfyUI's own loader only logs a warning and continues without it."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .patching.branches import apply_as_branches
from .patching.lora_patches import fitting_patches, module_of
from .patching.positive_side import apply_to_positive_side
from .sockets import CATEGORY, node_schema, show_text

BLOCK_GROUPS = {"input": "composition", "middle": "the coarsest features", "output": "detail and texture"}
"""The U-Net's three groups of blocks, and what they mostly decide."""
SIDES = ("both", "positive")
"""Prompts that the LoRA acts on."""


class ApplyLoRA(io.ComfyNode):
    """Patch every module that the LoRA has, or raise an error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAApply",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Applies a LoRA to a model; unlike the core loader, reports an error if it does not fit.",
            advanced=[*BLOCK_GROUPS, "strict", "side", "bypass"],
            search_aliases=["load LoRA", "LoRA loader", "patch model", "block weights", "bypass", "fp8"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model that the LoRA was made for."),
                io.LoraModel.Input("lora", tooltip="From Decode LoRA, or any LORA_MODEL."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 is the LoRA unchanged, 0 is off.",
                ),
                *(
                    io.Float.Input(
                        group,
                        display_name=f"strength of {group} blocks",
                        default=1.0,
                        min=-10.0,
                        max=10.0,
                        step=0.05,
                        tooltip=f"Multiplies the strength in the U-Net's {group} blocks, which mostly decide {what}.",
                    )
                    for group, what in BLOCK_GROUPS.items()
                ),
                io.Boolean.Input(
                    "strict",
                    default=True,
                    tooltip="On: an error if the model lacks a module of the LoRA. Off: the other modules are patched.",
                ),
                side_input(),
                io.Boolean.Input(
                    "bypass",
                    default=False,
                    optional=True,
                    tooltip="On: the LoRA is computed beside the layers, and no weight is changed. For weights of 8 "
                    "bits and less, which patching rounds again, and for offloaded ones. Each step takes more time.",
                ),
            ],
            outputs=[io.Model.Output("patched", display_name="MODEL", tooltip="The model with the LoRA applied.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        lora: Mapping[str, Tensor],
        strength: float,
        input: float,
        middle: float,
        output: float,
        strict: bool,
        side: str = "both",
        bypass: bool = False,
    ) -> io.NodeOutput:
        """Patch a clone: the incoming model is another node's cached output."""
        patches, modules = fitting_patches(model, lora, strict)
        patched = model.clone()
        factors = {"input": input, "middle": middle, "output": output}
        strengths = {key: strength * factors[block_group(key)] for key in patches}
        done = {module_of(key) for key, own in strengths.items() if own}
        description = f"{len(done)}/{modules} modules patched"
        if bypass and side == "both":
            apply_as_branches(patched, patches, strengths)
            description = f"{len(done)}/{modules} modules, weights unchanged"
        else:
            apply_to_side(patched, patches, strengths, side)
            description += ", positive side" if side == "positive" else ""
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(patched, ui=ui.PreviewText(description))


def side_input() -> Any:
    """Define the input that chooses a side; workflows that were saved without it stay valid."""
    return io.Combo.Input(
        "side",
        options=list(SIDES),
        default="both",
        optional=True,
        tooltip="The prompts that the LoRA acts on. positive: more likeness at the same cfg (hybrid "
        "guidance), for more time in each step. Without guidance (cfg 1) both are the same.",
    )


def apply_to_side(model: Any, patches: Mapping[Any, Any], strengths: Mapping[Any, float], side: str) -> None:
    """Apply a LoRA to a cloned MODEL: to its weights, or on the positive prompt's side alone."""
    if side == "positive":
        apply_to_positive_side(model, patches, strengths)
    else:
        add_patches(model, patches, strengths)


def add_patches(model: Any, patches: Mapping[Any, Any], strengths: Mapping[Any, float]) -> None:
    """Patch a cloned MODEL's weights, each with its strength."""
    for strength in set(strengths.values()) - {0.0}:
        model.add_patches({key: own for key, own in patches.items() if strengths[key] == strength}, strength)


def block_group(key: Any) -> str:
    """Return the block group of a U-Net weight, one of BLOCK_GROUPS; weights outside of blocks count as middle."""
    name = key if isinstance(key, str) else key[0]  # a slice of a weight is named by a tuple
    return next((group for group in BLOCK_GROUPS if f".{group}_blocks." in name), "middle")
