"""Checkpoint files: one safetensors file with all weights, and everything else as JSON in its header."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import DiffLoRAConfig
from .files import read_tensors, write_tensors
from .lora.layout import LoRALayout
from .lora.lora import METADATA_KEY
from .precision import exact_state

FORMAT = 1
"""Version of the file format; older versions read none that is newer."""
HEADER = "difflora"
"""Key of the file's metadata that has layout and configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    path: Path
    """The file."""
    layout: LoRALayout
    """Layout of the LoRAs that it makes."""
    config: DiffLoRAConfig
    """Everything else but the weights."""
    tensors: Mapping[str, Tensor]
    """Weights and statistics by name."""

    def load_into(self, network: nn.Module) -> None:
        """Load weights and statistics, in float32.

        Raises:
            ValueError: They don't fit the network that the header describes.
        """
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in self.tensors.items()})
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise ValueError(f"{self.path} holds weights that don't fit its header:{first[0]}") from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another kind of file, is damaged, or was written by a newer version; what it is is said.
    """
    tensors, metadata = read_tensors(path)
    layout, config = read_checkpoint_header(path, metadata, tensors)
    return Checkpoint(Path(path), layout, config, tensors)


def read_checkpoint_header(
    path: str | Path, metadata: Mapping[str, str], names: Iterable[str]
) -> tuple[LoRALayout, DiffLoRAConfig]:
    """Read layout and configuration from a file's metadata.

    Args:
        path: The file, for errors.
        metadata: The file's metadata.
        names: Names of the file's tensors, by which another kind of file is recognized.

    Raises:
        ValueError: See `read_checkpoint`.
    """
    if METADATA_KEY in metadata:
        raise ValueError(
            f"{path} is no DiffLoRA checkpoint but a LoRA that DiffLoRA made: put it into models/loras and load it as "
            "any other LoRA. DiffLoRA checkpoints belong into models/difflora."
        )
    if HEADER not in metadata:
        kind = "a LoRA file" if any("lora" in name for name in names) else "some other model"
        raise ValueError(
            f"{path} is no DiffLoRA checkpoint but {kind}: it has no {HEADER!r} header. Put DiffLoRA checkpoints "
            "into models/difflora, LoRAs into models/loras, base models into models/checkpoints."
        )
    try:
        header = json.loads(metadata[HEADER])
        newer = header["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no DiffLoRA checkpoint: its {HEADER!r} header has another content.") from error
    if newer:
        raise ValueError(
            f"{path} has checkpoint format {header['format']}, this version reads up to {FORMAT}: update DiffLoRA."
        )
    try:
        return LoRALayout.from_dict(header["layout"]), DiffLoRAConfig.from_dict(header["config"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {error}") from error


def write_checkpoint(
    path: str | Path, network: nn.Module, layout: LoRALayout, config: DiffLoRAConfig, dtype: torch.dtype
) -> None:
    """Write a checkpoint file, whole or not at all: weights in `dtype`, statistics in float32.

    Raises:
        OSError: The system refuses: disk full, no permission.
    """
    header = {"format": FORMAT, "layout": layout.to_dict(), "config": asdict(config)}
    write_tensors(path, exact_state(network, dtype), {HEADER: json.dumps(header), "format": "pt"})
