"""LoRA files by their headers: naming, ranks, scale, base model, and the program that wrote them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from ..fields import read_json
from ..lora.base_model import SDXL
from ..lora.lora import METADATA_KEY
from ..lora.peft_config import CONFIG_FILE, HEADER_KEY, RAW_PREFIX
from ..lora.tensor_names import TensorName, parse
from .file_header import FileHeader, describe_base_model, show, show_line, show_names

_SHOWN = (
    "modelspec.title",
    "modelspec.author",
    "modelspec.architecture",
    "modelspec.date",
    "modelspec.license",
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_network_module",
    "ss_network_alpha",
    "ss_num_train_images",
    "ss_steps",
    "software",
)
"""Metadata that say what a LoRA is for and who made it, in the order in which they are shown."""
_HOW_TO_CONVERT = "docs/lora_files.md says how a LoRA is made of it"


def describe_lora(header: FileHeader) -> list[str] | None:
    """Describe a LoRA of any naming, or a file of a method beside LoRA; None if it is something else."""
    names = {key: parse(key) for key in header.shapes}
    downs = {key: header.shapes[key] for key, name in names.items() if name.role == "down"}
    methods = Counter(name.method for name in names.values() if name.method)
    if not downs and 2 * sum(methods.values()) <= len(names):
        return None
    return [
        _title(header, methods, bool(downs)),
        *([f"names: {_naming(downs)}"] if downs else []),
        _modules(names),
        *([f"rank: {_ranks(downs)}", f"scale: {_scale(header, names)}"] if downs else []),
        describe_base_model(downs),
        *_origin(header),
        *([] if downs and not methods else [_HOW_TO_CONVERT]),
        "folder in ComfyUI: models/loras",
    ]


def _title(header: FileHeader, methods: Mapping[str, int], has_factors: bool) -> str:
    named = ", ".join(f"{number} tensors of {method}" for method, number in methods.items())
    if not has_factors:
        return f"no LoRA but another method ({named})"
    if METADATA_KEY in header.metadata:
        return "LoRA made by DiffLoRA"
    return f"LoRA with parts of another method ({named})" if methods else "LoRA"


def _naming(downs: Mapping[str, tuple[int, ...]]) -> str:
    found = Counter(_naming_of(key) for key in downs)
    return " and ".join(name for name, _ in found.most_common())


def _naming_of(key: str) -> str:
    """Name the convention that a down factor's key follows, by the table of docs/lora_files.md."""
    if "lora_A" in key:
        return "PEFT's own" if key.startswith(RAW_PREFIX) else "diffusers with PEFT"
    if not key.endswith(".lora_down.weight"):
        return "diffusers before PEFT"
    if key.startswith("lycoris_"):
        return "LyCORIS"
    return "ComfyUI's Train LoRA or Extract and Save Lora" if key.startswith("diffusion_model.") else "kohya"


def _modules(names: Mapping[str, TensorName]) -> str:
    """Count modules by the part of the base model that they belong to, by the names that SDXL's files have."""
    parts: dict[Literal["network", "text encoder"] | None, set[str]] = {"network": set(), "text encoder": set()}
    for key, name in names.items():
        parts.setdefault(SDXL().part(key), set()).add(name.layer)
    titles = {"network": "of the U-Net", "text encoder": "of text encoders", None: "under other names"}
    counts = [f"{len(layers)} {titles[part]}" for part, layers in parts.items() if layers]
    return f"modules: {', '.join(counts)}"


def _ranks(downs: Mapping[str, tuple[int, ...]]) -> str:
    found = Counter(shape[0] for shape in downs.values() if shape)
    if len(found) < 2:
        return show(next(iter(found), "none"))
    return f"{min(found)} to {max(found)}, most often {found.most_common(1)[0][0]}"


def _scale(header: FileHeader, names: Mapping[str, TensorName]) -> str:
    """Say where the factor of up · down is kept; alphas are tensors, and those are not read."""
    if alphas := sum(name.role == "alpha" for name in names.values()):
        said = header.metadata.get("ss_network_alpha")
        return f"alpha / rank, with {alphas} alphas" + (f", {show(said)} by the metadata" if said else "")
    if HEADER_KEY in header.metadata:
        return f"in the header, as {HEADER_KEY}"
    if header.has(RAW_PREFIX):
        there = header.path.with_name(CONFIG_FILE).is_file()
        return f"in {CONFIG_FILE} beside the file" + ("" if there else ", which is not there: copy it, too")
    return "1"


def _origin(header: FileHeader) -> Iterator[str]:
    """Say what made the file, as far as the metadata do."""
    metadata = header.metadata
    if METADATA_KEY in metadata:
        made_by = read_json(metadata[METADATA_KEY], f"{header.path}: the entry {METADATA_KEY!r} of its metadata")
        yield show_line("made by", made_by)
        return
    yield f"written by: {_program(metadata)}"
    shown = [name for name in _SHOWN if name in metadata]
    yield from (f"{name}: {show(metadata[name])}" for name in shown)
    if others := sorted(metadata.keys() - set(shown) - {"format"}):
        yield f"more metadata: {show_names(others)}"


def _program(metadata: Mapping[str, str]) -> str:
    if any(name.startswith("ot_") for name in metadata):
        return "OneTrainer"
    if HEADER_KEY in metadata:
        return "diffusers"
    if any(name.startswith("ss_") for name in metadata):
        return "kohya sd-scripts, or a program with its metadata"
    return "the metadata do not say"
