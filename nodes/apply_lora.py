"""Apply LoRA: patch a MODEL, or raise an error. ComfyUI's own loader only logs a warning and continues without it."""

from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
from comfy_api.latest import io, ui
from torch import Tensor

from .sockets import CATEGORY, show_text

ENDINGS = (".lora_up.weight", ".lora_down.weight", ".alpha")
BLOCK_GROUPS = {"input": "composition", "middle": "the coarsest features", "output": "detail and texture"}
"""The U-Net's three groups of blocks, and what they mostly decide."""


class ApplyLoRA(io.ComfyNode):
    """Patch every module that the LoRA has, or raise an error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return io.Schema(
            node_id="DiffLoRAApply",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Applies a LoRA to a model; unlike the core loader, reports an error if it does not fit.",
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
    ) -> io.NodeOutput:
        """Patch a clone: the incoming model is another node's cached output."""
        patches, modules = fitting_patches(model, lora, strict)
        patched = model.clone()
        done = 0
        for group, factor in (("input", input), ("middle", middle), ("output", output)):
            of_group = {key: patch for key, patch in patches.items() if block_group(key) == group}
            if strength * factor != 0:
                done += len(patched.add_patches(of_group, strength * factor))
        description = f"{done}/{modules} modules patched"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(patched, ui=ui.PreviewText(description))


def block_group(key: Any) -> str:
    """Return the block group of a U-Net weight, one of BLOCK_GROUPS; weights outside of blocks count as middle."""
    name = key if isinstance(key, str) else key[0]  # a slice of a weight is named by a tuple
    return next((group for group in BLOCK_GROUPS if f".{group}_blocks." in name), "middle")


def fitting_patches(model: Any, lora: Mapping[str, Tensor], strict: bool = True) -> tuple[dict[str, Any], int]:
    """Convert a LoRA to ComfyUI's patches, after checking that it fits the model.

    Args:
        model: ComfyUI's MODEL.
        lora: Tensors under any names that ComfyUI reads.
        strict: Whether every module of the LoRA has to be in the model.

    Returns:
        The patches, and the number of modules in the LoRA.

    Raises:
        ValueError: No module of the LoRA is in the model, or (strict) not all of them are; or a module has another size
            in the model, or the LoRA holds NaN or infinite values.
    """
    tensors = comfy.lora_convert.convert_lora(dict(lora))
    modules = {module_name(key) for key in tensors}
    # A fresh dict each time: the default argument of this function is shared between calls.
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    missing = sorted(modules - keys.keys())
    if not modules or len(missing) == len(modules) or (missing and strict):
        found = "the LoRA has no modules"
        if missing:
            found = f"the model lacks {len(missing)} of the LoRA's {len(modules)} modules, first {missing[0]}"
        kind = type(model.model.model_config).__name__
        hint = "" if len(missing) == len(modules) else ", or switch `strict` off to patch the other modules"
        raise ValueError(
            f"the LoRA does not fit this model (ComfyUI's class {kind}): {found}. "
            f"Use the base model that the LoRA was made for{hint}."
        )
    fitting = sorted(modules - set(missing))
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"the LoRA holds NaN or infinite values, first in {broken[0]}")
    state = model.model.state_dict()
    for name in fitting:
        check_shape(name, tensors, tuple(state[keys[name]].shape))
    return comfy.lora.load_lora(tensors, {name: keys[name] for name in fitting}, log_missing=False), len(modules)


def check_shape(name: str, lora: Mapping[str, Tensor], weight: tuple[int, ...]) -> None:
    """Check that the product of a module's factors has the shape of the weight; ComfyUI would skip or misread others.

    Args:
        name: Name of the module in the LoRA's keys.
        lora: Tensors under kohya names.
        weight: Shape of the model's weight.

    Raises:
        ValueError: The shapes differ, or one of the two factors is missing.
    """
    up, down = (lora.get(name + ending) for ending in ENDINGS[:2])
    if up is None or down is None:
        if f"{name}.lora_up.weight" in lora or f"{name}.lora_down.weight" in lora:
            raise ValueError(f"{name}: the LoRA has only one of the two factors; the file is damaged")
        return  # another kind of adapter (LoHa, a full difference): ComfyUI reads it
    product = (up.shape[0], *down.shape[1:])
    if product != weight or up.shape[1] != down.shape[0]:
        raise ValueError(
            f"{name}: factors of {tuple(up.shape)} and {tuple(down.shape)} do not fit the model's weight {weight}; "
            "the LoRA was made for another base model"
        )


def module_name(key: str) -> str:
    """Return the name of the module that a tensor of a LoRA belongs to."""
    for ending in ENDINGS:
        if key.endswith(ending):
            return key.removesuffix(ending)
    return key.rsplit(".", 1)[0]
