"""Any LoRA file of the base model → the same road as the pipeline's own teachers: stage pack takes both.

Names of kohya, PEFT, diffusers and ldm are read. Another rank is brought to the store's by an SVD of ΔW if that loses
nothing; if it does, the file is refused unless the best approximation is asked for. One file is one item: a refused one
is listed with the reason and stops nobody.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.canonical_form import align, change_rank
from difflora_core.lora.file_formats import SUFFIXES, known_names, read_lora
from difflora_core.lora.layout import LoRALayout
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.item_names import item_name
from training.lora_dataset.manifest import Record
from training.lora_dataset.stage import Worker

from .pack import layout_of

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")  # pickled ones are listed, and refused
TEXT_ENCODER = re.compile(r"^(lora_te\d*_|(base_model\.model\.)?text_encoder(_\d)?\.|te\d?_|clip_[lg]\.)")
OTHER_METHODS = ("dora_scale", "hada_w1_a", "lokr_w1", "lokr_w1_a", "oft_blocks", "lora_mid.weight", "diff", "diff_b")
TOLD = ("ss_base_model_version", "ss_sd_model_name", "ss_network_dim", "ss_network_alpha", "modelspec.title")
TINY = torch.finfo(torch.float64).tiny
TOLERANCE = 1e-6  # relative error of ΔW that counts as none, at the least


@dataclass(frozen=True)
class Imported:
    """A LoRA (numel,) float32 of the store's layout. rank: of the file, the highest of its modules. lost_energy: share
    of ‖ΔW‖² that the store's rank has no room for. text_tensors: of text encoders that were left out. other_modules:
    of the U-Net, outside the layout, that were left out; other_energy: their share of ‖ΔW‖².
    """

    lora: Tensor
    rank: int
    lost_energy: float
    text_tensors: int
    other_modules: int
    other_energy: float
    metadata: Mapping[str, str]


def import_lora(
    path: str | Path,
    layout: LoRALayout,
    approximate: bool = False,
    leave_out_text_encoder: bool = False,
    leave_out_other_layers: bool = False,
    start: Tensor | None = None,
) -> Imported:
    """Read a LoRA file of any naming and rank as a LoRA of `layout`.

    approximate: take the best approximation where ΔW has a higher rank than the layout. leave_out_text_encoder: drop
    what the file changes in the text encoders, which is a part of what it does. leave_out_other_layers: drop what it
    changes in layers outside the layout (kohya's trainer always has proj_in and proj_out), as long as all of the layout
    is there. start: (numel,) of a shared start, to whose factors those of the file are turned; ΔW is kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file, a LoRA of another base model or of other layers (the first that
            differs is named), of another kind (DoRA, LoHa …), changes text encoders, holds numbers that are not finite,
            or has too high a rank.
    """
    tensors, metadata = read_tensors(path)
    text = [key for key in tensors if TEXT_ENCODER.match(key)]
    if text and not leave_out_text_encoder:
        raise ValueError(
            f"The LoRA changes text encoders too ({len(text)} tensors, first {text[0]}), which a store of U-Net LoRAs "
            "can't hold; ask for them to be left out, and expect another effect."
        )
    tensors = {key: tensor for key, tensor in tensors.items() if key not in set(text)}
    other = next((key for key in tensors if key.split(".", 1)[-1].endswith(OTHER_METHODS)), None)
    if other is not None:
        raise ValueError(
            f"{other} belongs to another method than LoRA (DoRA, LoHa, LoKr, OFT, LoCon …): not supported."
        )
    others: dict[str, Tensor] = {}
    if leave_out_other_layers:
        known = {name for module in layout.modules for name in known_names(module)}
        others = {key: tensor for key, tensor in tensors.items() if _split(key)[0] not in known}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in others}
    eps = max((torch.finfo(t.dtype).eps for t in tensors.values() if t.is_floating_point()), default=TOLERANCE)
    state, rank = _one_rank(tensors)
    source = LoRALayout(layout.modules, rank)
    try:
        flat = read_lora(state, source)
    except ValueError as error:
        if "NaN or infinite" in str(error):
            raise
        raise ValueError(
            f"It does not fit the store's {len(layout.modules)} modules, as a LoRA of another base model or for other "
            f"layers would: {error}"
        ) from error
    lora, difference = change_rank(flat, source, layout)
    lost = float(difference) ** 2
    if float(difference) > max(TOLERANCE, eps) and not approximate:
        raise ValueError(
            f"The LoRA has rank {rank} and the store rank {layout.rank}, which would lose {lost:.3%} of the change's "
            "energy; ask for the approximation, or choose a store of higher rank."
        )
    lora = lora if start is None else align(lora, start, layout)
    outside, inside = (_energy(_modules(part), part) for part in (others, state))
    return Imported(lora, rank, lost, len(text), len(_modules(others)), outside / max(outside + inside, TINY), metadata)


def _split(key: str) -> tuple[str, str | None]:
    """A key's module and the role of the tensor in it: down, up, alpha, or None where the ending is unknown."""
    suffix = next((suffix for suffix in SUFFIXES if key.endswith(f".{suffix}")), None)
    return (key, None) if suffix is None else (key.removesuffix(f".{suffix}"), SUFFIXES[suffix])


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Keys by module and role."""
    modules: dict[str, dict[str, str]] = {}
    for key in tensors:
        name, role = _split(key)
        if role is not None:
            modules.setdefault(name, {})[role] = key
    return modules


def _energy(modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor]) -> float:
    """Sum of ‖ΔW‖² over modules, convolutions as matrices: ‖BA‖² = Σ (BᵀB) ∘ (AAᵀ)."""
    total = 0.0
    for keys in modules.values():
        if {"down", "up"} <= keys.keys():
            down, up = (tensors[keys[role]].double().flatten(1) for role in ("down", "up"))
            scale = float(tensors[keys["alpha"]]) / len(down) if "alpha" in keys else 1.0
            total += scale**2 * float(((up.mT @ up) * (down @ down.mT)).sum())
    return total


def _one_rank(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The tensors with alpha / rank folded into the up factors and all modules brought to the highest rank by zeros.

    What does not look like a pair of factors stays as it is: `read_lora` names it.
    """
    state, pairs = dict(tensors), []
    for keys in _modules(tensors).values():
        if {"down", "up"} <= keys.keys():
            down, up = tensors[keys["down"]], tensors[keys["up"]]
            if down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1] > 0:
                pairs.append(keys)
    rank = max((len(tensors[keys["down"]]) for keys in pairs), default=1)
    for keys in pairs:
        down, up = tensors[keys["down"]].float(), tensors[keys["up"]].float()
        own = len(down)
        if "alpha" in keys and tensors[keys["alpha"]].numel() == 1:
            up = up * (state.pop(keys["alpha"]).float().reshape(()) / own)
        state[keys["down"]], state[keys["up"]] = F.pad(down, (0, 0, 0, rank - own)), F.pad(up, (0, rank - own))
    return state, rank


@dataclass(frozen=True)
class ImportLoRAs:
    """A folder of LoRA files as a stage: run it with `run_stage`, then pack.

    folder: looked through with its subfolders. approximate, leave_out_text_encoder, leave_out_other_layers: see
    `import_lora`. aligned: turn the factors towards the start that the pipeline's own teachers share.
    """

    folder: Path
    approximate: bool = False
    leave_out_text_encoder: bool = False
    leave_out_other_layers: bool = False
    aligned: bool = False

    name = "import"
    gpu = False

    def files(self) -> dict[str, Path]:
        """Files by the name that the LoRA's person gets.

        Raises:
            ValueError: there is no such folder, or no LoRA file in it.
        """
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {self.folder} to import LoRAs from")
        found = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        if not found:
            raise ValueError(f"{self.folder} holds no LoRA files ({', '.join(ENDINGS)})")
        keys = {path: path.relative_to(self.folder).as_posix() for path in found}
        stems = [key.rsplit(".", 1)[0] for key in keys.values()]
        # a.safetensors and a.pt: whoever shares a name up to the ending is told apart by the whole name
        return {
            item_name(stem if stems.count(stem) == 1 else key, path.stem if "/" in key else None): path
            for (path, key), stem in zip(keys.items(), stems, strict=True)
        }

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Names of all files."""
        return list(self.files())

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Imports one file as import/<name>.safetensors. `device` doesn't matter."""
        layout, files = layout_of(config), self.files()
        start = shared_start(layout) if self.aligned else None

        def work(item: str) -> Record:
            path = files[item]
            found = import_lora(
                path, layout, self.approximate, self.leave_out_text_encoder, self.leave_out_other_layers, start
            )
            facts: dict[str, Any] = {
                "source": "import",
                "path": path.relative_to(self.folder).as_posix(),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "rank": found.rank,
                "lost_energy": found.lost_energy,
                "left_out": {
                    "text_encoder_tensors": found.text_tensors,
                    "other_modules": found.other_modules,
                    "other_energy": found.other_energy,
                },
                "aligned": self.aligned,
                "told": {key: found.metadata[key] for key in TOLD if key in found.metadata},
            }
            metadata = {"people": json.dumps([item]), "provenance": json.dumps(facts)}
            write_tensors(config.stage(self.name) / f"{item}.safetensors", {"loras": found.lora[None]}, metadata)
            return Record(item, facts={"people": [item], **facts})

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Nothing is left to do: stage pack puts the LoRAs into the store."""
