"""A LoRA on the positive prompt's side alone (hybrid guidance).

With classifier-free guidance the U-Net computes each step for the positive and for the negative prompt, and the image
moves away from the latter. If both have the LoRA, the likeness that it brings is in both, and guidance cancels part of
it. Here the weights stay the base model's, for both sides alike, and the LoRA is a low-rank branch beside the layers
that is added to the rows of the positive prompt. Two sets of weights would have to be swapped in every step.

Which rows are whose, core tells by the ids of their conditionings. It computes the sides in one batch or one after the
other, in any order, and an area of an image is a row of its own.
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
WITHOUT = ("negative", "empty")
"""Words in a guider's names of the conditionings that guidance moves away from."""


class Sides(NamedTuple):
    """What a guider computes."""

    without: set[Any]
    """Ids of the conditionings that have no LoRA."""
    images: int
    """Images that are sampled at once."""


def apply_to_positive_side(model: Any, patches: Mapping[Any, Any], strengths: Mapping[Any, float]) -> None:
    """Add a LoRA to a cloned MODEL, for the positive prompt alone; see `apply_as_branches`."""
    apply_as_branches(model, patches, strengths, rows_with)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, name_sides)


def name_sides(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
    """Tell the U-Net which conditionings of the guider have no LoRA; a wrapper of core's PREDICT_NOISE."""
    sides: dict[bool, list[Any]] = {True: [], False: []}
    for name, conditionings in executor.class_obj.conds.items():
        sides[not any(word in name for word in WITHOUT)] += conditionings or ()
    known = {conditioning["uuid"] for conditioning in sides[True]}
    for conditioning in sides[False]:
        if conditioning["uuid"] in known:  # core made it for an area of the other side, as a copy of that
            conditioning["uuid"] = uuid4()
    without = {conditioning["uuid"] for conditioning in sides[False]}
    options = comfy.model_patcher.create_model_options_clone(model_options or {})
    options.setdefault("transformer_options", {})[KEY] = Sides(without, len(x))
    return executor(x, timestep, options, seed)


def rows_with(options: Mapping[str, Any], rows: int) -> list[bool]:
    """Return for each part of the U-Net's batch whether the LoRA acts on it.

    Where no guider has told the sides apart, the first conditioning is the positive one.

    Raises:
        ValueError: There are more rows than each conditioning has images: those of tiles, in an order of their own.
    """
    indices, ids = options.get("cond_or_uncond") or [0], options.get("uuids")
    if KEY not in options or ids is None:
        return [index == 0 for index in indices]
    sides: Sides = options[KEY]
    if rows > len(ids) * sides.images:  # fewer are of a window of the images, in the order of core
        images = f"{sides.images} image{'s' * (sides.images > 1)}"
        raise mixed_rows(rows, f"{len(ids)} conditionings of {images}")
    return [own not in sides.without for own in ids]
