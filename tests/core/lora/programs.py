"""A tiny U-Net, and LoRA files of it as PEFT itself writes them."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from difflora_core.lora.file_formats import lora_state_dict
from difflora_core.lora.layout import LoRALayout

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def network(layers_per_block: int = 1) -> UNet2DConditionModel:
    """A tiny U-Net with SDXL's kinds of blocks."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=layers_per_block,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
        use_linear_projection=True,
    )


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Give every factor random values, as training would."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "hada" in name or "lokr" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def written_by_peft(folder: Path, layers_per_block: int = 1, **settings: object) -> tuple[PeftModel, Path]:
    """A model with a LoRA of PEFT, and the file that `save_pretrained` writes."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ATTENTION, **settings})
    model = randomize(get_peft_model(network(layers_per_block), config))
    model.save_pretrained(folder)
    return model, folder / "adapter_model.safetensors"


def layout_of(layers_per_block: int = 1, rank: int = 4) -> LoRALayout:
    return LoRALayout.from_network(network(layers_per_block), rank)


def kohya() -> dict[str, Tensor]:
    """A random LoRA under kohya names."""
    layout = layout_of()
    return lora_state_dict(torch.randn(layout.numel, generator=torch.Generator().manual_seed(0)), layout)
