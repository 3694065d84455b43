"""Models of metrics: found on this machine, read without running code, loaded strictly."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from difflora_core.files import describe_content, read_tensors

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of weights in transformers' folders."""


def model_folder(name: str | Path, what: str, needed: Sequence[Sequence[str]]) -> Path:
    """Find the folder of a model.

    Args:
        name: A folder, or a repository's name whose files are in the hub's cache on this machine.
        what: What errors call the model.
        needed: Names of files; of each entry one has to be there.

    Raises:
        FileNotFoundError: The folder or a file is not there; it is said how to get it.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _cached_folder(str(name), what, needed)
    missing = [names for names in needed if not any((folder / file).is_file() for file in names)]
    if missing:
        raise FileNotFoundError(f"{what}: {folder} has no {_listed(missing)}; put all files of the model there")
    return folder


def _cached_folder(name: str, what: str, needed: Sequence[Sequence[str]]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise FileNotFoundError(
            f"{what} is missing: {name} is neither a folder nor a repository in the hub's cache. Nothing is downloaded "
            f"here: run `hf download REPOSITORY`, or name a folder with {_listed(needed)}"
        ) from None


def _listed(files: Sequence[Sequence[str]]) -> str:
    return ", ".join(" or ".join(names) for names in files)


def load_pretrained(kind: Any, folder: Path, what: str, ignored: str | None = None, **arguments: Any) -> Any:
    """Load a model of transformers in float32, for inference. Pickled weights are read as tensors only.

    Args:
        kind: Class of the model.
        folder: Of `model_folder`.
        what: What errors call the model.
        ignored: Part of the names of tensors that the file may have without the model having them.
        arguments: Of `from_pretrained`.

    Raises:
        ValueError: The files are damaged, hold more than tensors, or belong to another kind of model.
    """
    _check_kind(kind, folder, what)
    try:
        model, report = kind.from_pretrained(
            folder, local_files_only=True, weights_only=True, output_loading_info=True, **arguments
        )
    except Exception as error:  # transformers, safetensors, pickle and json have their own kinds
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{what} in {folder} can't be loaded: {problem}") from error
    unknown = {name for name in report["unexpected_keys"] if ignored is None or ignored not in name}
    for word, names in (("lacks", report["missing_keys"]), ("has unknown", unknown)):
        if names:  # transformers would draw the missing ones at random
            raise ValueError(f"{what}: {folder} {word} {len(names)} tensors, first {min(names)}: it is another model")
    _check_finite(model.state_dict(), f"{what} in {folder}")
    return model.float().eval().requires_grad_(False)


def _check_kind(kind: Any, folder: Path, what: str) -> None:
    """Refuse another architecture at once, of which transformers would make a full-sized one with random weights."""
    path, expected = folder / "config.json", kind.config_class.model_type
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{what}: {path} is not JSON: {error}") from error
    found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if found != expected:
        raise ValueError(f"{what}: {path} is of a model of type {found}, expected {expected}")


def read_state_dict(path: Path, what: str, how: str) -> dict[str, Tensor]:
    """Read a flat state dict: safetensors, or a pickle of tensors of which no code is run.

    Args:
        path: The file.
        what: What errors call it.
        how: What to do where it is missing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds more than tensors, or tensors that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} is missing: there is no file {path}; {how}")
    state = read_tensors(path)[0] if path.suffix == ".safetensors" else _read_pickle(path, what)
    _check_finite(state, f"{what} in {path}")
    return state


def _read_pickle(path: Path, what: str) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        with path.open("rb") as file:
            pickled = file.read(2) in (b"PK", b"\x80\x02")
        found = "it is damaged, or holds more than tensors" if pickled else describe_content(path)
        raise ValueError(f"{what}: {path} cannot be read: {found}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{what}: {path} holds a {type(content).__name__}, expected tensors by name")
    return {str(name): value for name, value in content.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights by name in float32, none missing, none left over, each of its shape.

    Raises:
        ValueError: They are not this module's; the first difference is named.
    """
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    for word, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            raise ValueError(f"{what} {word} {len(names)} tensors, first {names[0]}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"{what}: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
    module.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in expected.items()})


def _check_finite(state: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{what}: {name} holds NaN or infinite values")
