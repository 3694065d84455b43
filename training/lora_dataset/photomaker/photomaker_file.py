"""PhotoMaker v1's official file: the identity encoder and a LoRA of the U-Net."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from difflora_core.files import describe_content, replacing
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.tensor_names import parse
from difflora_core.network_files import read_tensors_by_part

from .identity_encoder import IdEncoder

PARTS = ("id_encoder", "lora_weights")


@dataclass(frozen=True)
class PhotoMaker:
    """What a PhotoMaker file holds."""

    encoder: IdEncoder
    """The identity encoder."""
    lora: Mapping[str, Tensor]
    """The U-Net's LoRA under the file's names."""


def read_photomaker(path: str | Path) -> PhotoMaker:
    """Read PhotoMaker v1: the official `.bin`, or a `.safetensors` whose names begin with the two parts' names.

    No code of the file is executed: of a pickle only tensors in dictionaries are accepted.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another version or another file; the message says what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is not a PhotoMaker file {path}; `generate: file:` names photomaker-v1.bin")
    is_safetensors = path.suffix == ".safetensors"
    parts = read_tensors_by_part(path, PARTS, "a PhotoMaker file") if is_safetensors else _read_bin(path)
    encoder = parts["id_encoder"]
    if perceiver := next((name for name in encoder if name.startswith("qformer_perceiver")), None):
        raise ValueError(f"{path} is PhotoMaker v2 (it holds {perceiver}); only v1 is read: use photomaker-v1.bin")
    try:
        return PhotoMaker(IdEncoder.from_state(encoder), parts["lora_weights"])
    except ValueError as error:
        raise ValueError(f"{path} is not a PhotoMaker v1 file: {error}") from error


def _read_bin(path: Path) -> dict[str, dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        with path.open("rb") as file:
            pickled = file.read(2) in (b"PK", b"\x80\x02")
        what = "it is damaged, or holds more than tensors" if pickled else describe_content(path)
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as PhotoMaker: {what} ({cause})") from error
    if not isinstance(content, dict) or set(content) != set(PARTS):
        found = ", ".join(sorted(map(str, content))[:5]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} is not a PhotoMaker file: it holds {found or 'nothing'}, expected {' and '.join(PARTS)}"
        )
    for part in PARTS:
        if not isinstance(content[part], Mapping) or not all(isinstance(v, Tensor) for v in content[part].values()):
            raise ValueError(f"{path} is not a PhotoMaker file: {part} is not a dictionary of tensors")
    return {part: dict(content[part]) for part in PARTS}


def write_photomaker(path: str | Path, encoder: IdEncoder, lora: Mapping[str, Tensor]) -> None:
    """Write the official layout, atomically. lora: under the official file's names, see `official_lora_names`."""
    with replacing(Path(path)) as partial:
        torch.save({"id_encoder": encoder.state_dict(), "lora_weights": dict(lora)}, partial)


def official_lora_names(flat: Tensor, layout: LoRALayout) -> dict[str, Tensor]:
    """Return a LoRA (numel,) under the official file's names: those of diffusers' former attention processors."""
    named = {}
    for module, factors in layout.unflatten(flat.detach()).items():
        attention, projection = module.removesuffix(".0").rsplit(".", 1)
        for role, factor in zip(("down", "up"), factors, strict=True):
            named[f"unet.{attention}.processor.{projection}_lora.{role}.weight"] = factor.clone()
    return named


def read_unet_lora(lora: Mapping[str, Tensor], unet: nn.Module) -> tuple[LoRALayout, Tensor]:
    """Read PhotoMaker's LoRA as a layout of the U-Net's attention projections and a flat vector (numel,) float32.

    Raises:
        ValueError: It does not fit the U-Net.
    """
    down = next((tensor for name, tensor in lora.items() if parse(name).role == "down"), None)
    if down is None:
        raise ValueError(f"PhotoMaker's lora_weights hold no down factor; first {next(iter(lora), 'none')!r}")
    layout = LoRALayout.from_network(unet, down.shape[0])
    try:
        return layout, read_lora(lora, layout)
    except ValueError as error:
        raise ValueError(f"PhotoMaker's LoRA does not fit the base model's U-Net: {error}") from error


@torch.no_grad()
def merge_lora(unet: nn.Module, layout: LoRALayout, flat: Tensor, strength: float = 1.0) -> None:
    """Add strength · up · down to the U-Net's weights, in place; the negative strength subtracts it again."""
    for name, (down, up) in layout.unflatten(flat).items():
        weight = unet.get_parameter(f"{name}.weight")
        change = strength * (up.to(weight.device) @ down.to(weight.device))  # float32, whatever the weight's dtype
        weight.copy_(weight.float() + change)
