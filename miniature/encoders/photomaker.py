"""Stage `photomaker`: the identity encoder of the LoRA dataset pipeline, small, and its LoRA of rank 4.

Two runs. First the vision tower, initialized with the shipped CLIP vision model, is trained to predict people's traits,
since CLIP's training leaves out what captions don't say. Then projections, fuse module and LoRA are trained with the
frozen base model's diffusion loss: references of a person go in, another image of that person is denoised. The two runs
have different people: the tower knows those it was trained on better than others, and the rest would learn to rely on
it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor, nn

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.layout import LoRALayout
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import TEXT_G_WIDTH, TEXT_L_WIDTH
from miniature.base_model.model import TextCondition, TinySDXL, Tokenizer, noise_scheduler
from miniature.world.image_blocks import (
    BLOCK,
    OTHER_PEOPLE,
    TEACHER_PEOPLE,
    Block,
    draw_blocks,
    load_block,
    training_blocks,
)
from miniature.world.people import TRAITS, person
from miniature.world.scenes import CLASS_WORD, caption, training_scene
from training.base_model.batched_loras import stacked_loras
from training.dreambooth.train import initial_lora
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.lora_dataset.photomaker.class_word import repeat_class_word
from training.lora_dataset.photomaker.identity_encoder import IdEncoder, encoder_sizes
from training.lora_dataset.photomaker.photomaker_file import official_lora_names, write_photomaker

from .clip_vision import preprocess
from .training_latents import MIN_TIMESTEP, TrainingLatents

RANK = 4
MAX_REFERENCES = 4
BATCH = 16
TOWER_BATCH = 32
CACHED = 8
"""A person's first images, which serve as references; all serve as targets."""
LORA_RATE = 8.0
"""Learning rate of the LoRA as a multiple of the other parameters'."""
WORD_SCALE = 0.21
"""Standard deviation of the class word's embedding in the base model."""
SHIFT, BRIGHTNESS = 6, 0.1
"""Largest random shift, in pixels, and change of brightness of the tower's images: it has few people to learn from."""
TOWER = TrainConfig(steps=4000, learning_rate=1.0e-3, warmup=30, ema=0.99, save_every=100, seed=5)
CONFIG = TrainConfig(steps=4000, learning_rate=1.5e-3, warmup=30, ema=0.99, save_every=100, seed=6)


class Tower(nn.Module):
    """The vision tower with a linear map to traits, which it is trained to predict."""

    def __init__(self, encoder: IdEncoder) -> None:
        super().__init__()
        self.vision_model = encoder.vision_model
        self.traits = nn.Linear(encoder.visual_projection.in_features, len(TRAITS))
        nn.init.zeros_(self.traits.weight)
        nn.init.zeros_(self.traits.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized images (images, 3, 128, 128) → traits (images, 26)."""
        return self.traits(self.vision_model(pixel_values=pixels).pooler_output)


class TrainableParts(nn.Module):
    """What the second run trains: projections, fuse module and the U-Net's LoRA (numel,), held as LoRA / LORA_RATE."""

    def __init__(self, encoder: IdEncoder, layout: LoRALayout) -> None:
        super().__init__()
        self.visual_projection, self.visual_projection_2 = encoder.visual_projection, encoder.visual_projection_2
        self.fuse_module = encoder.fuse_module
        self.lora = nn.Parameter(initial_lora(layout, torch.Generator().manual_seed(5)) / LORA_RATE)


def initial_encoder(weights: Path) -> IdEncoder:
    """The shipped CLIP vision tower with new projections and a new fuse module, from seed 5.

    At first the fuse module leaves the class word about as it is.
    """
    clip = load_file(weights / "clip_vision" / "miniature" / "model.safetensors")
    clip = {name: tensor for name, tensor in clip.items() if name.startswith("vision_model.")}
    # Published figures depend on these draws, as on those of `TrainableParts`
    width, generator = clip["vision_model.post_layernorm.weight"].shape[0], torch.Generator().manual_seed(5)
    for name, out in (("visual_projection", TEXT_L_WIDTH), ("visual_projection_2", TEXT_G_WIDTH)):
        clip[f"{name}.weight"] = torch.randn(out, width, generator=generator) * width**-0.5
    encoder = IdEncoder(*encoder_sizes(clip))
    for name, parameter in encoder.named_parameters():
        if name in clip:
            parameter.data.copy_(clip[name])
        elif parameter.ndim == 2:
            gain = 0.1 if ".fc2." in name else 1.0
            parameter.data.copy_(gain * torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
        elif name == "fuse_module.layer_norm.weight":
            parameter.data.fill_(WORD_SCALE)
        elif name.endswith("bias"):
            parameter.data.zero_()
    return encoder


class CaptionEncoder:
    """Captions with the class word repeated → the base model's text conditions."""

    def __init__(self, base: TinySDXL, tokenizer: Path) -> None:
        self.base, self.tokenizer = base, Tokenizer(tokenizer)
        self.word = self.tokenizer.tokenizer(CLASS_WORD).input_ids[1:-1]

    def __call__(self, captions: list[str], times: int) -> tuple[TextCondition, Tensor]:
        """Text conditions of captions, and the positions of the repeated class word: int64 (captions, times)."""
        left, right, positions = [], [], []
        for text in captions:
            ids, where = repeat_class_word(self.tokenizer.tokenizer(text).input_ids, self.word, times, text)
            left.append(ids + [ids[-1]] * (77 - len(ids)))
            right.append(ids + [0] * (77 - len(ids)))
            positions.append(where)
        with torch.no_grad():
            condition = self.base.encode((torch.tensor(left), torch.tensor(right)))
        return condition, torch.tensor(positions)


class TrainingImages:
    """Images of training people."""

    def __init__(self, build: Path, people: range, processes: int) -> None:
        """Open whole blocks of people, and draw those that are missing."""
        self.people = people
        blocks: list[Block] = [block for block in training_blocks() if block.people[0] in people]
        draw_blocks(build / "images", blocks, processes)
        self.stacks = [load_block(build / "images", block) for block in blocks]

    def __getitem__(self, row: int) -> np.ndarray:
        """Images of the n-th of the people: uint8 (16 or 6, 128, 128, 3)."""
        return self.stacks[row // BLOCK][row % BLOCK]


def train_photomaker(build: Path, weights: Path, tokenizer: Path, processes: int) -> Path:
    """Train (resumable) and write build/photomaker/miniature.bin in the official layout; returns its path."""
    path = build / "photomaker" / "miniature.bin"
    if path.exists():
        return path
    torch.set_num_threads(1)  # with small matrices more threads are slower
    base, vae = load_checkpoint(weights)
    base.unet.set_attn_processor(AttnProcessor())  # torch's own attention is slow backwards on a CPU
    texts, scheduler = CaptionEncoder(base, tokenizer), noise_scheduler()
    images, tower_images = (
        TrainingImages(build, people, processes) for people in (range(TEACHER_PEOPLE), OTHER_PEOPLE)
    )
    latents = TrainingLatents(build, TEACHER_PEOPLE, vae)
    encoder, layout = initial_encoder(weights), LoRALayout.from_network(base.unet, RANK)
    train_tower(Tower(encoder), tower_images, path.parent)
    pooled = pooled_features(encoder, images, path.with_name("pooled.safetensors"))

    def loss(model: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, TrainableParts)
        n = 1 + int(torch.randint(0, MAX_REFERENCES, (), generator=generator))
        targets, references, captions = [], [], []
        for index in torch.randint(0, TEACHER_PEOPLE, (BATCH,), generator=generator).tolist():
            target = int(torch.randint(0, len(images[index]), (), generator=generator))
            others = [k for k in torch.randperm(CACHED, generator=generator).tolist() if k != target]
            targets.append((index, target))
            references.append(pooled[index, others[:n]])
            captions.append(caption(training_scene(index, target)))
        clean, pixel_weights = latents.of(targets)
        condition, positions = texts(captions, n)
        condition.context = encoder.fuse(condition.context, positions, encoder.project(torch.stack(references)))
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(MIN_TIMESTEP, 1000, (BATCH,), generator=generator)
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        lora = stacked_loras(base.unet, layout, LORA_RATE * model.lora[None])
        with lora, torch.autocast(noisy.device.type, torch.bfloat16):
            predicted = base.predict(noisy, timesteps, condition).float()
        return ((predicted - velocity).square() * pixel_weights).mean(), {}

    parts = TrainableParts(encoder, layout)
    train(parts, loss, CONFIG, path.parent, "photomaker")
    write_photomaker(path, encoder, official_lora_names(LORA_RATE * parts.lora, layout))
    return path


def train_tower(tower: Tower, images: TrainingImages, folder: Path) -> None:
    """Train the tower in place to predict the traits of training people (resumable)."""
    traits = torch.tensor(np.stack([person(index).traits for index in images.people])).float()

    def loss(model: nn.Module, _: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        people = torch.randint(0, len(images.people), (TOWER_BATCH,), generator=generator)
        chosen = torch.randint(0, len(images[0]), (TOWER_BATCH,), generator=generator).tolist()
        batch = np.stack([images[row][k] for row, k in zip(people.tolist(), chosen, strict=True)])
        pixels = augmented(preprocess(batch), generator)
        return (model(pixels) - traits[people]).square().mean(), {}

    train(tower, loss, TOWER, folder, "tower")


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images (images, 3, height, width) at random, edges repeated, and change their brightness."""
    padded = nn.functional.pad(pixels, (SHIFT,) * 4, mode="replicate")
    height, width = pixels.shape[-2:]
    places = torch.randint(0, 2 * SHIFT + 1, (len(pixels), 2), generator=generator).tolist()
    shifted = [
        image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, places, strict=True)
    ]
    factors = 1 + BRIGHTNESS * (2 * torch.rand(len(pixels), 1, 1, 1, generator=generator) - 1)
    return torch.stack(shifted) * factors


@torch.no_grad()
def pooled_features(encoder: IdEncoder, images: TrainingImages, path: Path) -> Tensor:
    """The tower's pooled features of the images that serve as references: float32 (1200, 8, width), kept in a file."""
    if not path.exists():
        rows = [encoder.pool(preprocess(np.array(images[index][:CACHED]))) for index in range(TEACHER_PEOPLE)]
        write_tensors(path, {"pooled": torch.stack(rows)})
    return read_tensors(path)[0]["pooled"]
