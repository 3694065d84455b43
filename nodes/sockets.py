"""The pack's own socket types, and what travels on them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy_api.latest import io
from server import PromptServer
from torch import Tensor

from ..difflora_core.lora.file_formats import lora_state_dict
from ..difflora_core.lora.layout import LoRALayout
from ..difflora_core.model import DiffLoRA

CATEGORY = "DiffLoRA"

DiffLoRAModel = io.Custom("DIFFLORA_MODEL")
Face = io.Custom("DIFFLORA_FACE")
Features = io.Custom("DIFFLORA_FEATURES")
Latent = io.Custom("DIFFLORA_LATENT")
# insightface's FaceAnalysis travels under two names: packs before us chose one or the other.
InsightFace = io.Custom("INSIGHTFACE")
FaceAnalysis = io.Custom("FACEANALYSIS")


@dataclass(frozen=True)
class LoadedDiffLoRA:
    """DIFFLORA_MODEL: the networks and their handle in ComfyUI's memory management."""

    difflora: DiffLoRA
    patcher: comfy.model_patcher.ModelPatcher
    name: str

    @classmethod
    def wrap(cls, difflora: DiffLoRA, name: str) -> "LoadedDiffLoRA":
        """Put the networks under ComfyUI's care: it moves them to the device for use and away when asked."""
        patcher = comfy.model_patcher.ModelPatcher(
            # ComfyUI sets an attribute `device`, which is a property of ours: hence a plain module around it.
            torch.nn.ModuleList([difflora]),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        return cls(difflora, patcher, name)

    def on_device(self) -> DiffLoRA:
        """Bring the networks to the device and return them."""
        # Plain torch layers have no hook to cast half-loaded weights, so it is all of them or none.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.difflora


@dataclass(frozen=True)
class FaceFeatures:
    """DIFFLORA_FACE: one embedding per reference picture."""

    embeddings: Tensor
    """(pictures, width), float32, raw as the recognizer gives them."""
    encoder: str
    """Name of the recognizer's model pack; embeddings of two packs are not interchangeable."""
    references: str
    """Fingerprint of the pictures, which ends up in the LoRA's metadata."""


@dataclass(frozen=True)
class MixedFeatures:
    """DIFFLORA_FEATURES: the condition of the diffusion."""

    condition: Tensor
    """(1, width)."""
    checkpoint: str
    """Name of the DiffLoRA checkpoint that mixed them; another one's diffusion would not understand them."""
    references: str
    """Fingerprint of the pictures it describes."""


@dataclass(frozen=True)
class LoRALatent:
    """DIFFLORA_LATENT: points in the latent space of one checkpoint."""

    latents: Tensor
    """(candidates, tokens, width)."""
    checkpoint: str
    """Name of the DiffLoRA checkpoint; another one decodes them to something else."""
    made_by: tuple[Mapping[str, Any], ...]
    """What made each candidate."""


class MadeLoRA(dict[str, Tensor]):
    """LORA_MODEL, ComfyUI's own dict of tensors, that still knows its layout and what made it."""

    def __init__(self, flat: Tensor, layout: LoRALayout, made_by: Mapping[str, Any]) -> None:
        """flat: (numel,)."""
        super().__init__(lora_state_dict(flat, layout, format="kohya"))
        self.layout, self.made_by = layout, made_by


def fingerprint(tensor: Tensor) -> str:
    """A short hash of a tensor's numbers: 16 hexadecimal digits."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def to_intermediate(tensor: Tensor) -> Tensor:
    """Move a result to where ComfyUI keeps what passes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def show_text(text: str, node_id: str | None) -> None:
    """Show text inside a node while it runs; without a browser it goes nowhere.

    Args:
        text: One or more lines.
        node_id: The node's `hidden.unique_id`; None outside a workflow.
    """
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)
