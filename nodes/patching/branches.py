"""A LoRA as low-rank branches beside the layers of ComfyUI's U-Net, whose weights stay as they are.

Core calls this bypass. A patch of a weight of eight bits is rounded to eight bits again, one of an offloaded or packed
weight is computed again at each use; a branch is neither.

The branches are hooks of the layers, there while the U-Net runs. `torch.compile` takes no notice of hooks that come and
go, so a U-Net that is compiled (core's TorchCompileModel) runs without compilation meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...difflora_core.lora.low_rank_branch import LowRankBranch

KEY = "difflora_branches"
"""Of wrappers and callbacks."""

ChooseParts = Callable[[Mapping[str, Any], int], list[bool]]
"""From transformer_options and the size of the U-Net's batch to whether a LoRA acts on each part of the batch; parts
are of equal size."""


def apply_as_branches(
    model: Any,
    patches: Mapping[Any, Any],
    strengths: Mapping[Any, float],
    choose_parts: ChooseParts = lambda *_: [True],
) -> None:
    """Add a LoRA's branches to a cloned MODEL, beside those that it has.

    Args:
        model: ComfyUI's MODEL.
        patches: From `lora_patches.fitting_patches`.
        strengths: By the same keys; 0 leaves a weight out.
        choose_parts: Tells on which parts of a batch the LoRA acts; on all by default.

    Raises:
        ValueError: The MODEL is no U-Net; or a weight is changed in another way than by two factors, or only a slice of
            it; or PyTorch is older than 2.6.
    """
    if not isinstance(model.model.diffusion_model, UNetModel):  # others have not been tried
        raise ValueError(
            "only in a U-Net, as SDXL has, a LoRA can be applied beside the layers; the model is ComfyUI's class "
            f"{type(model.model.model_config).__name__}: set `side` to both, and `bypass` off"
        )
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            "a LoRA beside the layers needs PyTorch 2.6 or newer, which can run a compiled model without compilation; "
            f"found {torch.__version__}: update it, or set `side` to both, and `bypass` off"
        )
    branches = Branches(
        dict(_branch(key, patch, strengths[key]) for key, patch in patches.items() if strengths[key]), choose_parts
    )
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, branches.run_model)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, branches.release)
    model.add_callback_with_key(CallbacksMP.ON_LOAD, KEY, refuse_saving)


def refuse_saving(_patcher: Any, _device: Any, _memory: float, for_saving: bool, _full: bool) -> None:
    """Stop core's nodes that save a model or extract a LoRA from it; a callback of core's ON_LOAD.

    They alone load with `force_patch_weights`, and write weights, in which this LoRA is not.

    Raises:
        ValueError: The MODEL is loaded to be saved.
    """
    if for_saving:
        raise ValueError(
            "the model has a LoRA beside its layers, which the saved file would lack: set `side` of its Apply LoRA to "
            "both, and `bypass` off"
        )


def mixed_rows(rows: int, expected: str) -> ValueError:
    """Make the error of a batch whose rows can't be told apart."""
    return ValueError(
        f"another node made a batch of {rows} rows for {expected}, which can't be told apart: set Apply LoRA's `side` "
        "to both"
    )


def has_branches(model: Any) -> bool:
    """Whether a MODEL has a LoRA beside its layers."""
    return bool(model.get_wrappers(WrappersMP.APPLY_MODEL, KEY))


def _branch(key: Any, patch: Any, strength: float) -> tuple[str, LowRankBranch]:
    name = key if isinstance(key, str) else key[0]
    weights: Any = getattr(patch, "weights", ())
    plain = isinstance(key, str) and getattr(patch, "name", "") == "lora" and all(part is None for part in weights[3:])
    if not plain or not name.endswith(".weight"):
        raise ValueError(
            f"the LoRA changes {name} in another way than by two factors ({getattr(patch, 'name', 'difference')}); "
            "only plain LoRAs can be applied beside the layers: set `side` to both, and `bypass` off"
        )
    up, down, alpha, *_ = weights
    branch = LowRankBranch(down, up, alpha, strength)
    return name.removesuffix(".weight").removeprefix("diffusion_model."), branch


class Branches:
    """Low-rank branches of one LoRA, by module of the U-Net."""

    def __init__(self, branches: Mapping[str, LowRankBranch], choose_parts: ChooseParts) -> None:
        """Store the branches; the keys are names of modules inside the U-Net."""
        self.branches, self.choose_parts = branches, choose_parts

    def release(self, _: Any) -> None:
        """Give the device's memory back; a callback after sampling."""
        for branch in self.branches.values():
            branch.release()

    def run_model(
        self, executor: Any, x: Any, t: Any, concat: Any, context: Any, control: Any, options: Any, **kwargs: Any
    ) -> Any:
        """Run the model with the branches beside its U-Net's layers; a wrapper of core's APPLY_MODEL."""
        chosen = self.choose_parts(options, len(x))
        if not any(chosen):
            return executor(x, t, concat, context, control, options, **kwargs)
        with torch.compiler.set_stance("force_eager"), self._mounted(executor.class_obj.diffusion_model, chosen):
            return executor(x, t, concat, context, control, options, **kwargs)

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


def _add_branch(
    branch: LowRankBranch, chosen: list[bool], module: Any, inputs: tuple[Tensor, ...], output: Tensor
) -> Any:
    """Add a branch to the chosen parts of a layer's output; a forward hook."""
    x, parts = inputs[0], len(chosen)
    if all(chosen):
        return output + branch(x, module)
    if len(x) % parts:
        raise mixed_rows(len(x), f"{parts} conditionings")
    rows, changed = len(x) // parts, output.clone()
    for part, with_lora in enumerate(chosen):
        if with_lora:
            own = slice(part * rows, (part + 1) * rows)
            changed[own] += branch(x[own], module)
    return changed
