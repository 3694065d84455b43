"""The pack's own socket types, and what travels on them."""

from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import torch
from comfy_api.latest import io
from torch import Tensor

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
    """(pictures, width), float32, raw as the recogniser gives them."""
    encoder: str
    """Name of the recogniser's model pack; embeddings of two packs are not interchangeable."""


def to_intermediate(tensor: Tensor) -> Tensor:
    """Move a result to where ComfyUI keeps what passes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())
