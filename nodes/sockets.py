"""The pack's own socket types and the values on them; small helpers of all nodes."""

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy_api.latest import io
from server import PromptServer
from torch import Tensor

from ..difflora_core.denoiser.config import SamplingConfig
from ..difflora_core.model import DiffLoRA

CATEGORY = "DiffLoRA"
MARKDOWN = str.maketrans({sign: f"&#{ord(sign)};" for sign in "*_`~[]|\\"})
"""Signs that Markdown reads as its own; as references they are signs in Markdown and in HTML."""
NEWER_FIELDS = {"search_aliases", "has_intermediate_output"}
"""Fields of a node's schema that ComfyUI 0.3.75 does not have."""

DiffLoRAModel = io.Custom("DIFFLORA_MODEL")
Face = io.Custom("DIFFLORA_FACE")
Features = io.Custom("DIFFLORA_FEATURES")
Latent = io.Custom("DIFFLORA_LATENT")
# InsightFace's FaceAnalysis has two socket types: other packs chose one or the other.
InsightFace = io.Custom("INSIGHTFACE")
FaceAnalysis = io.Custom("FACEANALYSIS")


@dataclass(frozen=True)
class LoadedDiffLoRA:
    """DIFFLORA_MODEL: the networks, managed by ComfyUI."""

    difflora: DiffLoRA
    """The networks."""
    patcher: comfy.model_patcher.ModelPatcher
    """Their handle in ComfyUI's memory management."""
    name: str
    """File name of the checkpoint."""
    autoencoder: str
    """`autoencoder_fingerprint` of the checkpoint."""

    @classmethod
    def wrap(cls, difflora: DiffLoRA, name: str, autoencoder: str) -> "LoadedDiffLoRA":
        """Register the networks with ComfyUI's memory management, which loads and offloads them."""
        patcher = comfy.model_patcher.ModelPatcher(
            # ComfyUI sets an attribute `device`, a read-only property of DiffLoRA: hence a plain module around it.
            torch.nn.ModuleList([difflora]),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        return cls(difflora, patcher, name, autoencoder)

    def on_device(self) -> DiffLoRA:
        """Load the networks onto the device and return them."""
        # Plain torch layers have no hook that casts partially loaded weights, so all of them are loaded.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.difflora


@dataclass(frozen=True)
class FaceFeatures:
    """DIFFLORA_FACE: one embedding per reference image."""

    embeddings: Tensor
    """(images, width), float32, not normalized."""
    encoder: str
    """Name of the recognizer's model pack; embeddings of two packs are not interchangeable."""
    references: str
    """Fingerprint of the images, for the LoRA's metadata."""


@dataclass(frozen=True)
class MixedFeatures:
    """DIFFLORA_FEATURES: the condition of the diffusion."""

    condition: Tensor
    """(1, width)."""
    checkpoint: str
    """File name of the DiffLoRA checkpoint that mixed them; they mean nothing to another one."""
    references: str
    """Fingerprint of the reference images, for the LoRA's metadata."""


@dataclass(frozen=True)
class LoRALatent:
    """DIFFLORA_LATENT: LoRA latents of one checkpoint."""

    latents: Tensor
    """(candidates, tokens, width)."""
    checkpoint: str
    """File name of the DiffLoRA checkpoint; they mean something else to another one."""
    made_by: tuple[Mapping[str, Any], ...]
    """How each candidate was made, for the LoRA's metadata."""
    autoencoder: str
    """`autoencoder_fingerprint` of the checkpoint; empty if it is not known."""

    def is_compatible_with(self, checkpoint: str, autoencoder: str) -> bool:
        """Tell whether the latents mean the same to a checkpoint: by its autoencoder, else by its file name."""
        if self.autoencoder and autoencoder:
            return self.autoencoder == autoencoder
        return self.checkpoint == checkpoint


def node_schema(*, advanced: Sequence[str] = (), **described: Any) -> io.Schema:
    """Describe a node to ComfyUI, without what an older host does not know.

    Args:
        advanced: Rarely used widgets, which newer hosts show on request only.
        described: Fields of `io.Schema`.
    """
    unknown = NEWER_FIELDS - {field.name for field in fields(io.Schema)}
    schema = io.Schema(**{name: value for name, value in described.items() if name not in unknown})
    inputs = {declared.id: declared for declared in schema.inputs}
    for name in advanced:
        inputs[name].advanced = True
    return schema


def hash_tensors(tensors: Sequence[Tensor] | Tensor) -> str:
    """Hash the values of tensors, or of one: 16 hexadecimal digits. A batch has the same as the list of its rows."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        # As bytes, since numpy has no bfloat16
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def to_intermediate(tensor: Tensor) -> Tensor:
    """Move a result to the device on which ComfyUI keeps values between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def show_text(text: str, node_id: str | None) -> None:
    """Show text inside a node while it runs, on the page that queued it; without a browser it goes nowhere.

    Args:
        text: One or more lines, shown sign by sign: names and metadata of files may hold anything.
        node_id: The node's `hidden.unique_id`; None outside a workflow.
    """
    if node_id is not None:
        server = PromptServer.instance
        server.send_progress_text(as_markdown(text), node_id, server.client_id)


def as_markdown(text: str) -> str:
    """Write text so that it is shown as it is: the page reads it as HTML, scripts included, newer nodes as Markdown."""
    # A line of Markdown ends with two spaces; HTML shows no space there
    return html.escape(text).translate(MARKDOWN).replace("\n", "  \n")


def describe_sampling(sampling: SamplingConfig) -> str:
    """Describe settings of the sampling in one line."""
    return (
        f"steps {sampling.steps}, guidance {sampling.guidance_scale:g}, scheduler {sampling.scheduler}, "
        f"samples {sampling.samples}, latent scale {sampling.latent_scale:g}, "
        f"temperature {sampling.temperature:g}"
    )
