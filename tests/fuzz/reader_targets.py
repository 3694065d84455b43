"""The readers that are fuzzed, and what they do with any file: read it, or refuse it by a message that names it.

Seeds are files of every kind and format as our own writers write them, made at every start.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.files import write_tensors
from difflora_core.lora.file_formats import lora_state_dict, read_lora
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.lora.lora import LoRA, kohya_metadata
from difflora_core.lora.peft_config import CONFIG_FILE, HEADER_KEY
from difflora_core.model import DiffLoRA
from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings
from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.lora_dataset.stages.lora_files import import_lora
from training.store.lora_store import LoRAStore
from training.store.shard import read_shard
from training.store.shard_file import read_measured

TRAINING = Path(__file__).parents[2] / "training"
LAYOUT = LoRALayout(
    (
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
        LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", 3, 5),
    ),
    rank=2,
)
PEFT_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 6}}


class Finding(Exception):  # noqa: N818  # what fuzzing calls it
    """A reader did something else than reading a file or refusing it clearly."""


@dataclass(frozen=True)
class Reader:
    """A reader, and files to begin with."""

    name: str
    """On the command line."""
    file_name: str
    """Of the file that is read."""
    read: Callable[[Path], object]
    """Reads a file."""
    write_seeds: Callable[[Path], None]
    """Writes whole files, which are read, into a folder."""

    def check(self, content: bytes, folder: Path) -> bool:
        """Let a file of this content be read in a folder; return whether it was, and not refused.

        Raises:
            Finding: It was refused without its path. Any other error than a ValueError passes through.
        """
        path = folder / self.file_name
        path.unlink(missing_ok=True)  # tensors that still live keep the former file
        path.write_bytes(content)
        try:
            self.read(path)
        except ValueError as error:
            if str(path) not in str(error):
                raise Finding(f"the message does not name {path}: {str(error)!r}") from error
            return False
        return True


def _read_lora(path: Path) -> None:
    """Read a LoRA as the library does, and as the dataset's command imports foreign ones with all that it allows."""
    if not (beside := path.with_name(CONFIG_FILE)).exists():
        beside.write_text(json.dumps(PEFT_CONFIG), encoding="utf-8")
    import_lora(path, LAYOUT, approximate=True, leave_out_text_encoder=True, leave_out_other_layers=True)
    try:
        read_lora(path, LAYOUT)
    except ValueError as error:
        if str(path) not in str(error):
            raise Finding(f"the message does not name {path}: {str(error)!r}") from error


def _read_shard(path: Path) -> None:
    read_shard(path)
    read_measured(path)


SETTINGS: Mapping[str, Callable[[Path], object]] = {
    "lae": lambda path: read_settings(LAESettings, path),
    "difflora": lambda path: read_settings(DiffLoRASettings, path),
    "finetune": lambda path: read_settings(FinetuneSettings, path),
    "dataset": load_config,
}
"""Settings of every command, by the kind that the first line of a fuzzed file names."""


def _read_settings(path: Path) -> None:
    """Read settings of the kind that the first line names, or of all."""
    first = path.read_bytes().partition(b"\n")[0].removeprefix(b"# ").decode("latin-1")
    for read in [SETTINGS[first]] if first in SETTINGS else SETTINGS.values():
        read(path)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _named(names: list[str], suffixes: tuple[str, str], rank: int = 2) -> dict[str, Tensor]:
    """Name the factors of a LoRA of `LAYOUT` otherwise."""
    tensors = {}
    for name, module in zip(names, LAYOUT.modules, strict=True):
        tensors[name + suffixes[0]] = _random(rank, module.in_features)
        tensors[name + suffixes[1]] = _random(module.out_features, rank)
    return tensors


def _foreign_loras() -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Yield tensors and metadata under every name that files have, of other ranks, with other layers and parts."""
    kohya = lora_state_dict(_random(LAYOUT.numel), LAYOUT)
    suffixes = (".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")
    old = (".lora.down.weight", ".lora.up.weight"), ("_lora.down.weight", "_lora.up.weight")
    known = [LAYOUT.base.known_names(name, layers) for layers in (2, 1) for name in LAYOUT.names]  # type: ignore[attr-defined]
    for first, second in (*zip(*known[:2], strict=True), *zip(*known[2:], strict=True)):
        yield _named([first, second], suffixes[first.count(".") > 1]), {}
    for number, suffix in enumerate(
        (*old, (".lora_A", ".lora_B"), (".lora_A.default.weight", ".lora_B.default.weight"))
    ):
        yield _named(list(LAYOUT.names), suffix, number + 1), {}
    yield {name: tensor.half() for name, tensor in kohya.items()}, kohya_metadata(kohya)
    yield {name: tensor.bfloat16() for name, tensor in kohya.items()}, {}
    text = {f"lora_te1_text_model_encoder{suffix}": torch.ones(2, 2) for suffix in suffixes[0]}
    linear = {f"lora_unet_mid_block_attentions_0_proj_in{suffix}": torch.ones(2, 2) for suffix in suffixes[0]}
    convolution = {
        "lora_unet_conv_in.lora_down.weight": _random(2, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": _random(5, 2, 1, 1),
        "lora_unet_conv_in.alpha": torch.tensor(1.0),
    }
    middle = {
        "lora_unet_conv_out.lora_down.weight": _random(2, 4, 1, 1),
        "lora_unet_conv_out.lora_mid.weight": _random(2, 2, 3, 3),
        "lora_unet_conv_out.lora_up.weight": _random(5, 2, 1, 1),
    }
    whole = {"diffusion_model.out.2.diff": _random(4, 3), "diffusion_model.out.2.diff_b": _random(4)}
    yield kohya | text | linear | convolution | middle | whole, {}
    header = {f"unet.{name}": value for name, value in PEFT_CONFIG.items()}
    yield lora_state_dict(_random(LAYOUT.numel), LAYOUT, "peft"), {HEADER_KEY: json.dumps(header), "format": "pt"}


def _write_loras(folder: Path) -> None:
    for format in ("kohya", "peft", "diffusers"):
        LoRA(_random(LAYOUT.numel), LAYOUT, {"seed": 3}).save(folder / f"{format}.safetensors", format)
    for number, (tensors, metadata) in enumerate(_foreign_loras()):
        write_tensors(folder / f"foreign_{number}.safetensors", tensors, metadata)


def _write_checkpoints(folder: Path) -> None:
    small = {"tokens": 2, "width": 2, "chunk": 8, "channels": 4, "hidden": 4}
    for number, other in enumerate[dict[str, Any]](
        [
            {},
            {"tied": True, "scale": "delta", "groups": 2},
            {"variational": True, "local": False},
            {"kind": "token", "heads": 2},
            {"kind": "token", "heads": 2, "groups": 2, "token_of": "block", "variational": True},
            {"kind": "flat", "blocks": 1},
            {"kind": "linear"},
        ]
    ):
        types = {"token_types": (0, 1), "token_depths": (0, 1)} if number % 2 else {}
        config = DiffLoRAConfig(
            LAEConfig(**small | other),
            DiTConfig(2, 2, width=4, layers=1, heads=2, head_width=4, mlp_ratio=1.0, condition_width=4, **types),
            MIFConfig(face_width=3, image_width=2, width=4, mode=("gate", "mean", "face", "image")[number % 4]),
            EncoderNames("a", "b"),
            provenance={"people": 8},
        )
        torch.manual_seed(0)
        model = DiffLoRA(LAYOUT, config)
        model.lae.fit(_random(8, LAYOUT.numel))
        model.save(folder / f"{number}.safetensors", torch.float16 if number % 2 else torch.float32)


def _write_shards(folder: Path) -> None:
    """Write shards of numbers and of names, with and without provenance and values of each person."""
    store = LoRAStore(folder / "store", LAYOUT)
    loras, measured = _random(2, LAYOUT.numel), {"loss": torch.ones(2), "steps": torch.ones(2, dtype=torch.int64)}
    store.add("numbers", [3, 4], loras)
    store.add("names", ["ann", "bø"], loras, provenance=[{"seed": 1, "files": ["a"]}, {"seed": 2}], **measured)
    store.add("alike", [5], loras[:1].half(), provenance=[{"seed": 1}], loss=torch.ones(1).double())
    for path in sorted((folder / "store").rglob("*.safetensors")):
        path.rename(folder / f"{path.parent.name}.safetensors")


def _write_settings(folder: Path) -> None:
    """Copy the settings that are shipped, without their comments, behind a line that names their kind."""
    for number, path in enumerate(sorted(TRAINING.rglob("*.yaml"))):
        text = re.sub(r"(^|\s+)#.*\n?", r"\n", path.read_text(encoding="utf-8"))
        for kind, read in SETTINGS.items():
            (copy := folder / f"{kind}_{number}.yaml").write_text(f"# {kind}\n{text}", encoding="utf-8")
            try:
                read(copy)
                break
            except ValueError:  # it is of another kind
                copy.unlink()


READERS = {
    reader.name: reader
    for reader in (
        Reader("lora", "lora.safetensors", _read_lora, _write_loras),
        Reader("checkpoint", "checkpoint.safetensors", DiffLoRA.load, _write_checkpoints),
        Reader("shard", "shard.safetensors", _read_shard, _write_shards),
        Reader("settings", "settings.yaml", _read_settings, _write_settings),
    )
}


def seeds(reader: Reader, folder: Path) -> list[Path]:
    """Write a reader's seeds into a folder that exists, and list the files."""
    reader.write_seeds(folder)
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".yaml"))
