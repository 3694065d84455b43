"""Stage `instantid`: InstantID for the drawn world, made of the same modules that read its official files.

First the Resampler is trained, see `instantid_resampler`. Then two more parts are trained with the frozen base model's
diffusion loss on images of training people: the U-Net's keys and values for the Resampler's tokens, and the whole
IdentityNet. Another image of the person gives the face embedding, the image itself the keypoints and the caption.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from difflora_core.diffusion_loss import loss_target
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import IMAGE_SIZE
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.base_model.model import added_conditions
from miniature.base_model.vae import to_pixels
from miniature.world.image_blocks import BASE_IMAGES, OTHER_PEOPLE, TEACHER_PEOPLE, draw_blocks, training_blocks
from miniature.world.scenes import caption, training_scene
from training.base_model.sdxl import SDXLBase
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.instantid.instantid_files import ADAPTER, InstantID, attention_shapes, write_instantid
from training.instantid.instantid_pipeline import InstantIDPipeline
from training.instantid.keypoint_image import keypoint_image

from .faces.face_images import FaceImages, open_face_images
from .instantid_resampler import (
    TOKEN_FACTOR,
    initial_resampler,
    official_names,
    reference_faces,
    train_resampler,
)
from .training_latents import MIN_TIMESTEP, TrainingLatents

PEOPLE = TEACHER_PEOPLE
"""Training people, of whom there are many images."""
CACHED = 8
"""A person's first images, which serve as references; all serve as targets."""
DROPPED = 0.1
"""Share of samples without a face, and of samples without a caption, both of which guidance needs."""
BATCH = 8
NOISY, NOISY_SHARE = 400, 0.75
"""From this timestep on the noisy image hardly shows who it is, so that the face must tell; share of such samples."""
CONFIG = TrainConfig(steps=6000, learning_rate=2e-3, warmup=30, ema=0.99, save_every=100, seed=7)


class TrainableParts(nn.Module):
    """What is trained, as it is mounted in a pipeline."""

    def __init__(self, pipeline: InstantIDPipeline) -> None:
        super().__init__()
        unet = pipeline.base.pipeline.unet
        unet.encoder_hid_proj.requires_grad_(False)  # the Resampler, which is trained already
        self.processors = nn.ModuleList(p for p in unet.attn_processors.values() if isinstance(p, nn.Module))
        self.identity_net = pipeline.identity_net
        self.requires_grad_(True)


def initial_instantid(unet: nn.Module, resampler: IPAdapterPlusImageProjection) -> InstantID:
    """Start with the text's keys and values, made smaller, and an IdentityNet that is a U-Net and adds nothing."""
    torch.manual_seed(7)
    names = list(unet.attn_processors)  # type: ignore[arg-type]
    attention = {}
    for key in attention_shapes(unet):
        number, projection = key.split(".")[:2]
        layer = names[int(number)].removesuffix("processor")
        attention[key] = unet.get_parameter(f"{layer}{projection.removesuffix('_ip')}.weight").detach() / TOKEN_FACTOR
    net = ControlNetModel.from_unet(unet)
    control = {
        name: tensor / TOKEN_FACTOR if ".attn2.to_k." in name or ".attn2.to_v." in name else tensor
        for name, tensor in net.state_dict().items()
    }
    adapter = {"image_proj": official_names(resampler), "ip_adapter": attention}
    return InstantID(adapter, json.loads(net.to_json_string()), control)


def trained_instantid(pipeline: InstantIDPipeline) -> InstantID:
    """Return what a pipeline holds, in the official layout."""
    unet, net = pipeline.base.pipeline.unet, pipeline.identity_net
    processors, attention = list(unet.attn_processors.values()), {}
    for key in attention_shapes(unet):
        number, projection = key.split(".")[:2]
        attention[key] = getattr(processors[int(number)], projection)[0].weight.detach()
    resampler = unet.encoder_hid_proj.image_projection_layers[0]
    config = {**json.loads(net.to_json_string()), "_class_name": "ControlNetModel"}
    return InstantID({"image_proj": official_names(resampler), "ip_adapter": attention}, config, net.state_dict())


def random_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps: int64 (count,), most of them noisy."""
    clear = torch.randint(MIN_TIMESTEP, NOISY, (count,), generator=generator)
    noisy = torch.randint(NOISY, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < NOISY_SHARE, noisy, clear)


class InstantIDLoss:
    """The diffusion loss of a random batch, through U-Net and IdentityNet."""

    def __init__(
        self, pipeline: InstantIDPipeline, images: FaceImages, faces: Tensor, latents: TrainingLatents
    ) -> None:
        self.pipeline, self.images, self.faces, self.latents = pipeline, images, faces, latents
        self.scheduler = pipeline.base.scheduler()

    def __call__(self, module: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss; `module` only lists the trained parts, which the pipeline runs."""
        picks, pictures, faces, captions = [], [], [], []
        rows = torch.randint(0, len(self.images.people), (BATCH,), generator=generator).tolist()
        for row, (no_face, no_caption) in zip(rows, torch.rand(BATCH, 2, generator=generator).tolist(), strict=True):
            target = int(torch.randint(0, self.images.per_person, (), generator=generator))
            others = [k for k in torch.randperm(CACHED, generator=generator).tolist() if k != target]
            picks.append((int(self.images.people[row]), target))
            pictures.append(keypoint_image(self.images.landmarks[row, target], IMAGE_SIZE))
            faces.append(self.faces[row, others[0]] * (no_face >= DROPPED))
            text = caption(training_scene(*picks[-1]))
            captions.append("" if no_caption < DROPPED else text)
        clean, weights = self.latents.of(picks)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = random_timesteps(BATCH, generator)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            found = self.predict(noisy, timesteps, captions, torch.stack(faces), to_pixels(np.stack(pictures))).float()
        alphas = self.scheduler.alphas_cumprod[timesteps]
        expected = loss_target(self.scheduler.config.prediction_type, clean, noise, alphas)
        return ((found - expected).square() * weights).mean(), {}

    def predict(self, noisy: Tensor, timesteps: Tensor, captions: list[str], faces: Tensor, pictures: Tensor) -> Tensor:
        """What the U-Net predicts (batch, 16, 16, 16).

        Args:
            noisy: Latents of that shape.
            timesteps: Integers (batch,).
            captions: As many.
            faces: Embeddings (batch, 512), zero for nobody.
            pictures: Of keypoints (batch, 3, 128, 128) in [0, 1].
        """
        base, net = self.pipeline.base, self.pipeline.identity_net
        texts = base.encode_text(captions)
        added = added_conditions(texts["pooled"], noisy.dtype)
        net.face_tokens = self.pipeline.tokens(faces)
        down, middle = net(noisy, timesteps, texts["context"], pictures, added_cond_kwargs=added, return_dict=False)
        return base.unet(
            noisy,
            timesteps,
            texts["context"],
            added_cond_kwargs={**added, "image_embeds": [faces[:, None, None]]},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def train_instantid(build: Path, weights: Path, tokenizer: Path, processes: int) -> Path:
    """Train (resumable) and write build/instantid/miniature in the official layout; returns that folder."""
    folder = build / "instantid" / "miniature"
    if (folder / ADAPTER).exists():
        return folder
    torch.set_num_threads(1)  # with small matrices more threads are slower
    draw_blocks(build / "images", training_blocks(), processes)
    images, others = open_face_images(build, range(PEOPLE)), open_face_images(build, OTHER_PEOPLE)
    base = SDXLBase.open(export_diffusers(weights, folder.with_name("base"), tokenizer))
    resampler = initial_resampler(base.pipeline.unet.config.cross_attention_dim)
    other_faces = reference_faces(others, BASE_IMAGES, folder.with_name("other_faces.safetensors"))
    train_resampler(resampler, other_faces, torch.from_numpy(others.traits()), folder.parent)
    pipeline = InstantIDPipeline(base, initial_instantid(base.unet, resampler))
    faces = reference_faces(images, CACHED, folder.with_name("faces.safetensors"))
    loss = InstantIDLoss(pipeline, images, faces, TrainingLatents(build, PEOPLE, load_checkpoint(weights)[1]))
    train(TrainableParts(pipeline), loss, CONFIG, folder.parent, "instantid")
    write_instantid(folder, trained_instantid(pipeline))
    return folder
