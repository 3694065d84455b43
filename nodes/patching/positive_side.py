"""A LoRA on the positive prompt's side alone (hybrid guidance).

With classifier-free guidance the U-Net computes each step for the positive and for the negative prompt, and the image
moves away from the latter. If both have the LoRA, the likeness that it brings is in both, and guidance cancels part of
it. Here the weights stay the base model's, for both sides alike, and the LoRA is a low-rank branch beside the layers
that is added to the positive prompt's part of the batch. Two sets of weights would have to be swapped in every step.

ComfyUI computes both sides in one batch, or one after the other, in any order, and areas of an image by themselves. It
passes the ids of the conditionings that the parts of a batch belong to, by which the sides are told apart.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .branches import apply_as_branches, mixed_rows

KEY = "difflora_positive_side"
"""Of the wrapper, and in transformer_options of `Sides`."""
NEGATIVE_WORDS = ("negative", "empty")
"""Words in a guider's names of the conditionings that guidance moves away from."""


class Sides(NamedTuple):
    """What a guider computes."""

    without_lora: set[Any]
    """Ids of the conditionings that have no LoRA."""
    images: int
    """Images that are sampled at once."""


def apply_to_positive_side(model: Any, patches: Mapping[Any, Any], strengths: Mapping[Any, float]) -> None:
    """Add a LoRA to a cloned MODEL, for the positive prompt alone; see `apply_as_branches`."""
    apply_as_branches(model, patches, strengths, parts_with_lora)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, name_sides)


def name_sides(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
    """Tell the U-Net which conditionings of the guider have no LoRA; a wrapper of core's PREDICT_NOISE."""
    positive: list[Any] = []
    negative: list[Any] = []
    for name, conditionings in executor.class_obj.conds.items():
        side = negative if any(word in name for word in NEGATIVE_WORDS) else positive
        side += conditionings or ()
    positive_ids = {conditioning["uuid"] for conditioning in positive}
    for conditioning in negative:
        if conditioning["uuid"] in positive_ids:  # core made it for an area of the other side, as a copy of that
            conditioning["uuid"] = uuid4()
    without_lora = {conditioning["uuid"] for conditioning in negative}
    options = comfy.model_patcher.create_model_options_clone(model_options or {})
    options.setdefault("transformer_options", {})[KEY] = Sides(without_lora, len(x))
    return executor(x, timestep, options, seed)


def parts_with_lora(options: Mapping[str, Any], rows: int) -> list[bool]:
    """Return for each part of the U-Net's batch whether the LoRA acts on it.

    Where no guider has told the sides apart, the first conditioning is the positive one.

    Raises:
        ValueError: There are more rows than each conditioning has images: those of tiles, in an order of their own.
    """
    indices, ids = options.get("cond_or_uncond") or [0], options.get("uuids")
    if KEY not in options or ids is None:
        return [index == 0 for index in indices]
    sides: Sides = options[KEY]
    if rows > len(ids) * sides.images:  # with fewer, core samples some of the images at a time, in its usual order
        images = f"{sides.images} image{'s' * (sides.images > 1)}"
        raise mixed_rows(rows, f"{len(ids)} conditionings of {images}")
    return [own not in sides.without_lora for own in ids]
