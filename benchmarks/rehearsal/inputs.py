"""What a rehearsal starts from: where a recipe's settings expect them, models with random weights and drawn people.

There are no official weights of face models that a program may use freely: the miniature's packs, which find drawn
faces, stand under the configured names.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from benchmarks.rehearsal.cut_settings import IMAGES, change_settings, number_of_people
from benchmarks.rehearsal.measuring_models import PACKS, make_measuring_models
from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as miniature
from miniature.base_model.checkpoint import read_checkpoint
from miniature.base_model.diffusers_folder import diffusers_autoencoder
from miniature.base_model.single_file import CLIP_G, CLIP_L, UNET, VAE, save_single_file, text_state
from miniature.base_model.single_file_names import to_open_clip, unet_names
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from miniature.personal.example_dataset import draw_person_folders
from miniature.world.scenes import TEACHER_SCENES
from training.engine.settings import read_section, read_settings
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import load_config
from training.lora_dataset.photomaker.identity_encoder import IdEncoder
from training.lora_dataset.photomaker.photomaker_file import official_lora_names, write_photomaker
from training.people.config import EmbeddingSettings
from training.recipes.recipe import Recipe, dataset_step


@dataclass(frozen=True)
class Size:
    """The shapes of the user's models."""

    unet: Mapping[str, Any]
    """Of `UNet2DConditionModel`."""
    text_encoder: Mapping[str, Any]
    """Of CLIP-L, a `CLIPTextConfig`."""
    text_encoder_2: Mapping[str, Any]
    """Of CLIP-G."""
    vae: Mapping[str, Any] | None
    """Of `AutoencoderKL`; None for the miniature's own, which its ComfyUI companion reads."""
    vision: Mapping[str, Any]
    """Of the CLIP vision model and of PhotoMaker's, a `CLIPVisionConfig`."""
    clip: Mapping[str, Any]
    """Of the metrics' CLIP, a `CLIPConfig`, whichever is named."""
    dino: Mapping[str, Any]
    """Of the metrics' DINO, a `ViTConfig`."""
    photomaker_rank: int
    """Of PhotoMaker's LoRA."""
    min_people: int
    """People who are drawn, at least."""


_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
_VISION = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {
    "miniature": Size(
        miniature.UNET,
        miniature.TEXT_L,
        miniature.TEXT_G,
        None,
        {
            **_VISION,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "projection_dim": 32,
        },
        {"text_config": _TINY, "vision_config": {**_TINY, "image_size": 64, "patch_size": 16}, "projection_dim": 32},
        {**_TINY, "image_size": 64, "patch_size": 16},
        photomaker_rank=2,
        min_people=4,
    ),
    "sdxl": Size(
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
        },
        {
            **_TEXT,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
            "hidden_act": "quick_gelu",
            "pad_token_id": 49407,
        },
        {
            **_TEXT,
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
            "pad_token_id": 0,
        },
        {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 1024,
            "scaling_factor": 0.13025,
        },
        {
            **_VISION,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        },
        {"text_config": {}, "vision_config": {}, "projection_dim": 512},
        {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
        photomaker_rank=64,
        min_people=16,
    ),
}
"""By name. `sdxl` is SDXL 1.0's, CLIP ViT-L/14's and PhotoMaker v1's, of metrics ViT-B/32's and DINO ViT-S/16's."""


def make_inputs(size: Size, recipe: Recipe, single_file: Path, photographs: Path) -> None:
    """Write models and people to where the recipe's settings name them, after cutting the settings.

    Args:
        size: Of the models.
        recipe: A copy, whose settings files are changed.
        single_file: Where to write the base model as ComfyUI reads it.
        photographs: Where to draw people, a folder each.
    """
    people = number_of_people(recipe, size.min_people)
    for step in recipe.steps:
        change_settings(step.settings, photographs)
    config = load_config(dataset_step(recipe).settings)
    make_base(size, config.base, single_file)
    make_photomaker(size, config.generate.file)
    for step in recipe.steps:
        if step.command == "embed":
            make_vision(size, read_section(EmbeddingSettings, step.settings, "embeddings").image_encoder)
        elif step.command == "evaluate":
            make_measuring_models(read_settings(EvaluationSettings, step.settings).metrics, size.clip, size.dino)
    shutil.copytree(PACKS / "miniature", config.faces.root / "models" / config.faces.pack)
    draw_person_folders(photographs, range(people), TEACHER_SCENES[:IMAGES])


def make_base(size: Size, folder: Path, single_file: Path) -> None:
    """Write the base model with random weights, as a diffusers folder and as a single file."""
    unet = random_weights(lambda: UNet2DConditionModel(**size.unet))
    first = random_weights(lambda: CLIPTextModel(CLIPTextConfig(**size.text_encoder)))
    second = random_weights(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**size.text_encoder_2)))
    if size.vae is None:
        taesd = read_checkpoint(WEIGHTS).taesd
        vae: nn.Module = diffusers_autoencoder(taesd)
        save_single_file(single_file, unet, first, second, taesd)
    else:
        vae = random_weights(lambda: AutoencoderKL(**size.vae))
        write_single_file(single_file, unet, first, second, vae)
    tokenizer = find_tokenizer()
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True, model_max_length=77),
        tokenizer_2=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True, model_max_length=77, pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**schedule, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)


def write_single_file(path: Path, unet: nn.Module, first: nn.Module, second: nn.Module, vae: nn.Module) -> None:
    """Write SDXL's single-file layout; the autoencoder keeps diffusers' names, which ComfyUI reads as well."""
    names, state = unet_names(unet.config, unet.state_dict()), unet.state_dict()
    tensors: dict[str, Tensor] = {UNET + names[name]: tensor for name, tensor in state.items()}
    tensors |= {CLIP_L + name: tensor for name, tensor in text_state(first).items()}
    tensors |= {CLIP_G + name: tensor for name, tensor in to_open_clip(text_state(second)).items()}
    tensors |= {VAE + name: tensor for name, tensor in vae.state_dict().items()}
    write_tensors(path, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def make_photomaker(size: Size, path: Path) -> None:
    """Write PhotoMaker v1's official layout with random weights."""
    vision = {name: value for name, value in size.vision.items() if name != "projection_dim"}
    widths = size.text_encoder["hidden_size"], size.text_encoder_2["hidden_size"]
    encoder = random_weights(lambda: IdEncoder(vision, widths), half=False)
    layout = LoRALayout.from_config(size.unet, size.photomaker_rank)
    lora = 0.01 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    write_photomaker(path, encoder.cpu(), official_lora_names(lora.half(), layout))


def make_vision(size: Size, folder: Path) -> None:
    """Write a CLIP vision model with random weights as a folder of transformers."""
    model = random_weights(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**size.vision)), half=False)
    model.save_pretrained(folder, safe_serialization=True)
    side = size.vision["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)


def random_weights(make: Callable[[], Any], half: bool = True) -> Any:
    """Make a network with the random weights that it starts a training with: on a GPU, if there is one.

    Args:
        make: Makes it.
        half: Whether it has fp16 weights on a GPU.
    """
    gpu, before = torch.cuda.is_available(), torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16 if gpu and half else before)
    try:
        with torch.device("cuda" if gpu else "cpu"):
            return make().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
