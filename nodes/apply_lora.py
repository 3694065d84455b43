"""Apply LoRA: patch a MODEL, or say why not. ComfyUI's own loader only warns in its log and goes on without."""

from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
from comfy_api.latest import io, ui
from torch import Tensor

from .sockets import CATEGORY, show_text

ENDINGS = (".lora_up.weight", ".lora_down.weight", ".alpha")
GROUPS = {"input": "composition", "middle": "the coarsest features", "output": "detail and texture"}
"""The U-Net's three groups of blocks, and what they mostly decide."""


class ApplyLoRA(io.ComfyNode):
    """Patch every module the LoRA holds, or refuse."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAApply",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Applies a LoRA to a model like the core loader, but refuses a model that it does not fit.",
            inputs=[
                io.Model.Input("model", tooltip="The base model the LoRA was made for."),
                io.LoraModel.Input("lora", tooltip="From Decode LoRA, or any LORA_MODEL."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 is the LoRA as made, 0 is none.",
                ),
                *(
                    io.Float.Input(
                        group,
                        default=1.0,
                        min=-10.0,
                        max=10.0,
                        step=0.05,
                        tooltip=f"Multiplies the strength in the U-Net's {group} blocks: {what}.",
                    )
                    for group, what in GROUPS.items()
                ),
                io.Boolean.Input(
                    "strict",
                    default=True,
                    tooltip="On: a model that lacks a module of the LoRA is refused. Off: the others are patched.",
                ),
            ],
            outputs=[io.Model.Output("patched", display_name="MODEL", tooltip="The model with the LoRA.")],
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
    """Which of GROUPS a weight of the U-Net belongs to; what is in no block counts as middle."""
    name = key if isinstance(key, str) else key[0]  # a slice of a weight is named by a tuple
    return next((group for group in GROUPS if f".{group}_blocks." in name), "middle")


def fitting_patches(model: Any, lora: Mapping[str, Tensor], strict: bool = True) -> tuple[dict[str, Any], int]:
    """ComfyUI's patches of the LoRA for the model, and the number of modules the LoRA holds.

    Raises:
        ValueError: no module of the LoRA is in the model, or (strict) not every one is, or one has another size.
    """
    tensors = comfy.lora_convert.convert_lora(dict(lora))
    modules = {module_name(key) for key in tensors}
    # A fresh dict each time: the default argument of that function is shared between calls.
    places = comfy.lora.model_lora_keys_unet(model.model, {})
    lacking = sorted(modules - places.keys())
    if not modules or len(lacking) == len(modules) or (lacking and strict):
        found = "the LoRA holds no module"
        if lacking:
            found = f"it lacks {len(lacking)} of the LoRA's {len(modules)} modules, the first of them {lacking[0]}"
        kind = type(model.model.model_config).__name__
        hint = "" if len(lacking) == len(modules) else ", or switch `strict` off to patch the others"
        raise ValueError(
            f"the LoRA does not fit this model, which ComfyUI calls {kind}: {found}. "
            f"Use the base model the LoRA was made for{hint}."
        )
    fitting = sorted(modules - set(lacking))
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"the LoRA holds NaN or infinite numbers, first in {broken[0]}")
    state = model.model.state_dict()
    for name in fitting:
        check_shape(name, tensors, tuple(state[places[name]].shape))
    return comfy.lora.load_lora(tensors, {name: places[name] for name in fitting}, log_missing=False), len(modules)


def check_shape(name: str, lora: Mapping[str, Tensor], weight: tuple[int, ...]) -> None:
    """Refuse factors whose product has another shape than the weight; the host would skip or misread them.

    Raises:
        ValueError: names the module, both shapes, or the factor that is missing.
    """
    up, down = (lora.get(name + ending) for ending in ENDINGS[:2])
    if up is None or down is None:
        if f"{name}.lora_up.weight" in lora or f"{name}.lora_down.weight" in lora:
            raise ValueError(f"{name}: the LoRA holds only one of its two factors; the file is damaged")
        return  # another kind of adapter (LoHa, a full difference): ComfyUI knows how to read it, we do not
    product = (up.shape[0], *down.shape[1:])
    if product != weight or up.shape[1] != down.shape[0]:
        raise ValueError(
            f"{name}: factors of {tuple(up.shape)} and {tuple(down.shape)} do not make the model's weight {weight}; "
            "the LoRA was made for another base model"
        )


def module_name(key: str) -> str:
    """Name of the module that a tensor of a LoRA belongs to."""
    for ending in ENDINGS:
        if key.endswith(ending):
            return key.removesuffix(ending)
    return key.rsplit(".", 1)[0]
