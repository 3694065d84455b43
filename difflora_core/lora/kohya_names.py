"""A LoRA file's tensors under names that ComfyUI reads, without a layout: nothing is checked against a base model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..files import read_tensors
from .base_model import SDXL
from .file_contents import check_adapters, errors_of
from .layer_tensors import Layer, LayerScale, pair
from .peft_config import RAW_PREFIX
from .tensor_names import TensorName, parse


def read_with_kohya_names(path: str | Path) -> dict[str, Tensor]:
    """Read a LoRA file; PEFT's factors of SDXL's U-Net get kohya's names, all other tensors keep theirs.

    PEFT's files have alpha in a configuration, in the header or beside the file, and tensors alone have no scale. So
    each pair of factors gets an alpha of its own.

    Args:
        path: A safetensors file.

    Returns:
        Tensors by name, in the file's dtypes; alphas of PEFT's factors are float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is something else or damaged; PEFT's configuration is missing or does not fit; or one of
            PEFT's layers has more than two factors. The message begins with the file.
    """
    tensors, metadata = read_tensors(path)
    with errors_of(path):
        names = {key: parse(key) for key in tensors}
        check_adapters(names.values())
        layers = _peft_layers(tensors, names)
        read = {key: tensor for key, tensor in tensors.items() if names[key].layer not in layers}
        scale = LayerScale(SDXL(), Path(path), metadata)
        for layer in layers.values():
            read |= _kohya_tensors(layer, scale)
    return read


def _peft_layers(tensors: Mapping[str, Tensor], names: Mapping[str, TensorName]) -> dict[str, Layer]:
    """Collect the layers of the U-Net that have PEFT's factors; ComfyUI reads those under ldm's names itself."""
    layers = {
        name.layer: Layer(name.layer)
        for key, name in names.items()
        if "lora_A" in key and SDXL().part(key) == "network" and "diffusion_model." not in key
    }
    for key, tensor in tensors.items():
        name = names[key]
        if name.layer in layers:
            if name.role not in ("down", "up", "alpha"):
                raise ValueError(f"{key} is no factor of a plain LoRA ({name.method or name.role}): not supported.")
            layers[name.layer].add(key, name.role, tensor)
    return layers


def _kohya_tensors(layer: Layer, scale: LayerScale) -> dict[str, Tensor]:
    rank = len(pair(layer, layer.name)[0])
    module = layer.name.removeprefix(RAW_PREFIX).removeprefix(SDXL().peft_name(""))
    name = SDXL().kohya_name(module)
    return {
        f"{name}.lora_down.weight": layer.tensors["down"],
        f"{name}.lora_up.weight": layer.tensors["up"],
        f"{name}.alpha": scale(layer, rank) * rank,
    }
