"""The nodes: sockets, widgets, progress and memory. Every formula lives in `difflora_core`."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .apply_lora import ApplyLoRA
from .checkpoint import LoadDiffLoRA
from .clip_vision import LoadCLIPVision
from .face_analysis import LoadFaceAnalysis
from .features import EncodeFace, MixFeatures
from .latents import BlendLatents, EncodeLoRA
from .refine import RefineLoRA
from .sampling import DecodeLoRA, SampleLoRA
from .save_lora import SaveLoRA
from .similarity import FaceSimilarity, PickBest


class DiffLoRAExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes in the order of the road: picture to LoRA to model."""
        return [
            LoadDiffLoRA,
            LoadFaceAnalysis,
            LoadCLIPVision,
            EncodeFace,
            MixFeatures,
            SampleLoRA,
            DecodeLoRA,
            EncodeLoRA,
            BlendLatents,
            ApplyLoRA,
            RefineLoRA,
            SaveLoRA,
            FaceSimilarity,
            PickBest,
        ]


def register_folders() -> None:
    """Make models/difflora and models/insightface known, beside any place that extra_model_paths.yaml gives."""
    for name in ("difflora", "insightface"):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
