"""The nodes: sockets, widgets, progress and memory. Every formula lives in `difflora_core`.

In the order of the pipeline, from reference images to a model with a LoRA:

- `sockets`: the pack's own socket types and what travels on them
- `loaders`: Load DiffLoRA, Load Face Analysis, Load CLIP Vision, Load LoRA File, Load Reference Images
  from Folder
- `encode_and_mix_features`: Encode Face, Mix Features
- `sample_and_decode_lora`: Sample LoRA, Decode LoRA
- `encode_and_blend_latents`: Encode LoRA, Blend Latents
- `save_and_load_identity`: Save Identity, Load Identity
- `apply_lora`: Apply LoRA; `patching`: a LoRA on ComfyUI's MODEL, complete or not at all
- `refine_lora`: Refine LoRA; `refine_training`: its training loop on ComfyUI's model
- `save_lora`: Save LoRA; `file_names`: names and numbers of written files, changes of read ones
- `comparing`: Face Similarity, Pick Best Candidate, Apply LoRA at Several Strengths, Image Grid with Labels
- `preview_images`: images that nodes make: boxes around faces, a grid with labels, a loss curve
- `input_checks`: ranges and choices of the widgets, for all nodes
"""

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .apply_lora import ApplyLoRA
from .comparing.apply_strengths import ApplyStrengths
from .comparing.image_grid import ImageGrid
from .comparing.similarity_and_pick_best import FaceSimilarity, PickBest
from .encode_and_blend_latents import BlendLatents, EncodeLoRA
from .encode_and_mix_features import EncodeFace, MixFeatures
from .input_checks import with_checked_inputs
from .loaders.load_clip_vision import LoadCLIPVision
from .loaders.load_difflora import LoadDiffLoRA
from .loaders.load_face_analysis import LoadFaceAnalysis
from .loaders.load_lora_file import LoadLoRAFile
from .loaders.load_reference_folder import LoadReferenceFolder
from .refine_lora import RefineLoRA
from .sample_and_decode_lora import DecodeLoRA, SampleLoRA
from .save_and_load_identity import FOLDER, LoadIdentity, SaveIdentity
from .save_lora import SaveLoRA

NODES = [
    with_checked_inputs(node)
    for node in (
        LoadDiffLoRA,
        LoadFaceAnalysis,
        LoadCLIPVision,
        LoadReferenceFolder,
        EncodeFace,
        MixFeatures,
        SampleLoRA,
        DecodeLoRA,
        LoadLoRAFile,
        EncodeLoRA,
        BlendLatents,
        SaveIdentity,
        LoadIdentity,
        ApplyLoRA,
        ApplyStrengths,
        RefineLoRA,
        SaveLoRA,
        FaceSimilarity,
        PickBest,
        ImageGrid,
    )
]
"""In the order of the pipeline: images to LoRA to model; each checks what arrives at its widgets."""


class DiffLoRAExtension(ComfyExtension):
    """What ComfyUI reads the pack's nodes from."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return NODES


def register_folders() -> None:
    """Make the pack's folders in models/ known, beside any folder that extra_model_paths.yaml names."""
    for name in ("difflora", "insightface", FOLDER):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
