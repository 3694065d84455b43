"""A LoRA on the positive prompt's side alone (hybrid guidance).

With classifier-free guidance the U-Net computes each step for the positive and for the negative prompt, and the image
moves away from the latter. If both have the LoRA, the likeness that it brings is in both, and guidance cancels part of
it. Here the weights stay the base model's, for both sides alike, and the LoRA is a low-rank branch beside the layers
that is added to the rows of the positive prompt. Two sets of weights would have to be swapped in every step.

Which rows are whose, core tells by the ids of their conditionings. It computes the sides in one batch or one after the
other, in any order, and an area of an image is a row of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from uuid import uuid4

import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...difflora_core.lora.low_rank_branch import LowRankBranch

KEY = "difflora_positive_side"
"""Of wrappers and callbacks, and in transformer_options the ids of the conditionings that have no LoRA."""
WITHOUT = ("negative", "empty")
"""Words in a guider's names of the conditionings that guidance moves away from."""


def apply_to_positive_side(model: Any, patches: Mapping[Any, Any], strengths: Mapping[Any, float]) -> None:
    """Add a LoRA's branches to a cloned MODEL, beside those that it has.

    Args:
        model: ComfyUI's MODEL.
        patches: From `lora_patches.fitting_patches`.
        strengths: By the same keys; 0 leaves a weight out.

    Raises:
        ValueError: A weight is changed in another way than by two factors, or only a slice of it.
    """
    branches = {}
    for key, patch in patches.items():
        if strength := strengths[key]:
            path, branch = _branch(key, patch, strength)
            branches[path] = branch
    side = PositiveSide(branches)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, name_sides)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, side.run_unet)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, side.release)


def has_positive_side(model: Any) -> bool:
    """Whether a LoRA acts on the positive side of a MODEL alone."""
    return bool(model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY))


def _branch(key: Any, patch: Any, strength: float) -> tuple[str, LowRankBranch]:
    name = key if isinstance(key, str) else key[0]
    weights: Any = getattr(patch, "weights", ())
    plain = isinstance(key, str) and getattr(patch, "name", "") == "lora" and all(part is None for part in weights[3:])
    if not plain or not name.endswith(".weight"):
        raise ValueError(
            f"the LoRA changes {name} in another way than by two factors ({getattr(patch, 'name', 'difference')}); "
            "on the positive side alone only plain LoRAs can be applied: set `side` to both"
        )
    up, down, alpha, *_ = weights
    scale = strength * (1.0 if alpha is None else alpha / down.shape[0])
    return name.removesuffix(".weight").removeprefix("diffusion_model."), LowRankBranch(down, up, scale)


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
    options.setdefault("transformer_options", {})[KEY] = without
    return executor(x, timestep, options, seed)


class PositiveSide:
    """Low-rank branches of one LoRA, by module of the U-Net."""

    def __init__(self, branches: Mapping[str, LowRankBranch]) -> None:
        """Store the branches; the keys are names of modules inside the U-Net."""
        self.branches = branches

    def release(self, _: Any) -> None:
        """Give the device's memory back; a callback after sampling."""
        for branch in self.branches.values():
            branch.release()

    def run_unet(
        self, executor: Any, x: Any, timesteps: Any, context: Any, y: Any, control: Any, options: Any, **kwargs: Any
    ) -> Any:
        """Run the U-Net with the branches; a wrapper of core's DIFFUSION_MODEL."""
        chosen = rows_with(options)
        with self._mounted(executor.class_obj, chosen) if any(chosen) else nullcontext():
            return executor(x, timesteps, context, y, control, options, **kwargs)

    @contextmanager
    def _mounted(self, unet: torch.nn.Module, chosen: list[bool]) -> Iterator[None]:
        handles = []
        try:
            for name, branch in self.branches.items():
                hook = partial(_add_branch, branch, chosen)
                handles.append(unet.get_submodule(name).register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


def rows_with(options: Mapping[str, Any]) -> list[bool]:
    """Return for each part of the U-Net's batch whether the LoRA acts on it.

    Where no guider has told the sides apart, the first conditioning is the positive one.
    """
    indices, ids = options.get("cond_or_uncond") or [0], options.get("uuids")
    if KEY in options and ids is not None:
        return [own not in options[KEY] for own in ids]
    return [index == 0 for index in indices]


def _add_branch(
    branch: LowRankBranch, chosen: list[bool], module: Any, inputs: tuple[Tensor, ...], output: Tensor
) -> Any:
    """Add a branch to the chosen parts of a layer's output; a forward hook."""
    x, parts = inputs[0], len(chosen)
    if all(chosen):
        return output + branch(x, module)
    if len(x) % parts:
        raise ValueError(
            f"another node made a batch of {len(x)} rows for {parts} conditionings, which can't be told apart: set "
            "Apply LoRA's `side` to both"
        )
    rows, changed = len(x) // parts, output.clone()
    for part, with_lora in enumerate(chosen):
        if with_lora:
            own = slice(part * rows, (part + 1) * rows)
            changed[own] += branch(x[own], module)
    return changed
