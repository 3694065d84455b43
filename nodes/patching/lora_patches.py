"""A LoRA as ComfyUI's patches: every LoRA that the core loader applies completely; the others are refused.

The core loader reads the tensors, so that the patched weights are its own bit for bit. By itself it only logs what it
does not know, skips factors of a wrong shape when they are applied, and lets one change of a weight replace another.
Each of these is an error here.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from ...difflora_core.lora.tensor_names import parse

NEEDS_VALUES = ("oft", "boft")
"""Kinds of patches whose computation depends on the values, so that it cannot be tried without them."""


class _Recorded(dict[str, Tensor]):
    """Tensors that remember which of them were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def fitting_patches(model: Any, lora: Mapping[str, Tensor], strict: bool = True) -> tuple[dict[Any, Any], int]:
    """Convert a LoRA to ComfyUI's patches, after checking that it fits the model.

    Args:
        model: ComfyUI's MODEL.
        lora: Tensors under any names that ComfyUI reads; alphas may be plain numbers.
        strict: Whether every module of the LoRA has to be in the model.

    Returns:
        The patches by weight, and the number of modules in the LoRA.

    Raises:
        ValueError: No module of the LoRA is in the model, or (strict) not all of them are; a module has another size
            in the model; the core loader would pass over a tensor; or values are complex, NaN or infinite, or sizes not
            whole.
    """
    tensors = {key: _whole_sizes(key, torch.as_tensor(tensor)) for key, tensor in lora.items()}
    tensors = comfy.lora_convert.convert_lora(tensors)
    # A fresh dict each time: the default argument of this function is shared between calls.
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    known: dict[str, dict[str, Tensor]] = {}
    missing = set()
    for key, tensor in tensors.items():
        # Names of modules end before a dot, those of diffusers' former attention processors before `_lora.`
        found = {key[: end.start()] for end in re.finditer(r"\.|_lora\.", key)} & keys.keys()
        if found:
            known.setdefault(max(found, key=len), {})[key] = tensor
        else:
            missing.add(parse(key).layer)
    _check_modules(model, known.keys(), missing, strict)
    _check_values(tensors)
    patches: dict[Any, Any] = {}
    for name, own in known.items():
        _check_kinds(name, own)
        _check_shapes(name, own)
        loaded, trial = _load(name, own, keys[name]), _trial(name, own, keys[name])
        if twice := loaded.keys() & patches.keys():
            raise ValueError(
                f"{name}: the LoRA changes {twice.pop()} twice, under two names; the core loader drops one"
            )
        for target in loaded:
            _check_fit(name, own, target, trial[target], model.model)
        patches |= loaded
    return patches, len({module_of(target) for target in patches}) + len(missing)


def module_of(target: Any) -> str:
    """Return the module of a patched weight or bias; a slice of a weight is named by a tuple."""
    return (target if isinstance(target, str) else target[0]).rpartition(".")[0]


def _check_modules(model: Any, known: Any, missing: set[str], strict: bool) -> None:
    if known and not (missing and strict):
        return
    found, hint = "the LoRA has no modules", ""
    if missing:
        total = len(known) + len(missing)
        found = f"the model lacks {len(missing)} of the LoRA's {total} modules, first {min(missing)}"
        hint = ", or switch `strict` off to patch the other modules" if known else ""
    raise ValueError(
        f"the LoRA does not fit this model (ComfyUI's class {type(model.model.model_config).__name__}): {found}. "
        f"Use the base model that the LoRA was made for{hint}."
    )


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.is_complex():
            raise ValueError(f"the LoRA holds complex numbers, first in {key}; ComfyUI would drop their imaginary part")
        # torch has no isfinite for float8
        if not (tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all():
            raise ValueError(f"the LoRA holds NaN or infinite values, first in {key}")


def _whole_sizes(key: str, tensor: Tensor) -> Tensor:
    """Return sizes as whole numbers, as the core loader takes them: Save LoRA used to write them as floats."""
    if not key.endswith(".reshape_weight"):
        return tensor
    if not tensor.isfinite().all() or (tensor != tensor.round()).any():
        raise ValueError(f"{key} is {tensor.tolist()}, expected a weight's shape in whole numbers; the file is damaged")
    return tensor.long()


def _check_kinds(name: str, own: Mapping[str, Tensor]) -> None:
    """Check that a module has whole changes of one kind: of several the core loader keeps the last."""
    roles = {role for key in own if (role := parse(key).role) in ("down", "up")}
    if len(roles) == 1:
        raise ValueError(f"{name}: the LoRA has only one of the two factors; the file is damaged")
    kinds = {parse(key).method for key in own} - {None, "DoRA"} | ({"LoRA"} if roles else set())
    differences = {key for key in own if parse(key).role == "difference" and not key.endswith(".reshape_weight")}
    if len(kinds) + len(differences) > 1:
        named = ", ".join(sorted(str(kind) for kind in kinds) + sorted(key.rpartition(".")[2] for key in differences))
        raise ValueError(f"{name}: the LoRA changes one weight in several ways ({named}); the core loader keeps one")
    if not kinds and any(parse(key).method == "DoRA" for key in own):
        raise ValueError(f"{name}: the LoRA has a magnitude (DoRA) without factors; the file is damaged")


def _check_shapes(name: str, own: Mapping[str, Tensor]) -> None:
    """Check what the core loader takes for granted: that factors are matrices, and an alpha is one number."""
    for key, tensor in own.items():
        role, expected = parse(key).role, ""
        if role in ("down", "up") and (tensor.ndim < 2 or not tensor.numel()):
            expected = "a matrix"
        elif role == "alpha" and tensor.numel() != 1:
            expected = "one number"
        if expected:
            raise ValueError(
                f"{name}: the LoRA has a tensor of shape {tuple(tensor.shape)} in {key}, expected {expected}; the file "
                "is damaged"
            )


def _load(name: str, own: Mapping[str, Tensor], target: Any) -> dict[Any, Any]:
    """Let the core loader read a module's tensors, all of them."""
    recorded = _Recorded(own)
    try:
        loaded: dict[Any, Any] = comfy.lora.load_lora(recorded, {name: target}, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{name}: the LoRA lacks {error}; the file is damaged") from error
    if unread := sorted(own.keys() - recorded.read):
        raise ValueError(
            f"{name}: ComfyUI does not know what {unread[0]} is, and would apply the module without it; "
            "convert the LoRA with the program that made it"
        )
    return loaded


def _trial(name: str, own: Mapping[str, Tensor], target: Any) -> dict[Any, Any]:
    """Read a module's tensors without values, as far as these do not decide what is computed."""
    with torch.inference_mode(False):
        needed = (".alpha", ".reshape_weight", ".oft_blocks", ".rescale")
        tensors = {key: t if key.endswith(needed) else torch.empty_like(t, device="meta") for key, t in own.items()}
        return dict(comfy.lora.load_lora(tensors, {name: target}, log_missing=False))


def _check_fit(name: str, own: Mapping[str, Tensor], target: Any, trial: Any, network: torch.nn.Module) -> None:
    """Check that a patch changes the model's weight, by applying one without values to a weight without values."""
    key, offset = (target, None) if isinstance(target, str) else target[:2]
    module, _, parameter = key.rpartition(".")
    try:
        # The weight itself: a quantized layer's state_dict may have the shape of its packed bytes (GGUF)
        shape = tuple(getattr(network.get_submodule(module), parameter).shape)
    except AttributeError as error:
        raise ValueError(f"{name}: the model has no {key}; the LoRA was made for another base model") from error
    kind = getattr(trial, "name", "difference")
    factors = {role: tuple(tensor.shape) for tensor_name, tensor in own.items() if (role := parse(tensor_name).role)}
    if kind == "lora" and not _factors_fit(factors, shape if offset is None else (offset[2], *shape[1:])):
        raise ValueError(
            f"{name}: factors of {factors['up']} and {factors['down']} do not fit the model's weight {shape}; "
            "the LoRA was made for another base model"
        )
    # Inference tensors do not count their changes
    with torch.inference_mode(False), torch.no_grad():
        zeros = torch.zeros(shape, device="cpu" if kind in NEEDS_VALUES else "meta")
        try:
            result = comfy.lora.calculate_weight([(1.0, trial, 1.0, offset, None)], zeros, key)
            # Where the patch reshapes the weight, it is first copied into a larger one: a write that changes nothing
            changed = result._version > (0 if result is zeros else 1)
        except (RuntimeError, ValueError, IndexError):
            changed = False
    if not changed:
        raise ValueError(
            f"{name}: the LoRA's change ({kind}) does not fit the model's {key} of shape {shape}; "
            "the LoRA was made for another base model"
        )


def _factors_fit(factors: Mapping[str, tuple[int, ...]], weight: tuple[int, ...]) -> bool:
    """Whether up · down is of the weight's sides: the core loader would read transposed factors, wrongly.

    Factors of convolutions may be flattened; those with one in between are left to the trial.
    """
    up, down = factors["up"], factors["down"]
    if "mid" in factors or "difference" in factors:
        return up[0] == weight[0] or "difference" in factors
    return up[0] == weight[0] and math.prod(up[1:]) == down[0] and math.prod(down[1:]) == math.prod(weight[1:])
