"""The Control-LoRA starts at no change, trains only what its file holds, and is written under ComfyUI's names."""

import re

import pytest
import torch
from diffusers import UNet2DConditionModel

from miniature.base_model import config as base_config
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.control_lora import RANK, ControlLoRA, export_control
from miniature.base_model.model import TextCondition
from miniature.base_model.train_control_lora import NAME
from miniature.paths import WEIGHTS


@pytest.fixture(scope="module")
def control() -> ControlLoRA:
    torch.manual_seed(0)
    return ControlLoRA(UNet2DConditionModel(**base_config.UNET))


def residuals(control: ControlLoRA) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    condition = TextCondition(torch.randn(1, 77, 96, generator=generator), torch.randn(1, 64, generator=generator))
    noisy = torch.randn(1, *LATENT_SHAPE, generator=generator)
    with torch.no_grad():
        down, middle = control(noisy, torch.tensor([500]), condition, torch.ones(1, 3, 128, 128))
    return [*down, middle]


def test_starts_at_no_change(control: ControlLoRA) -> None:
    assert all(not residual.any() for residual in residuals(control))


def test_trains_what_the_file_holds(control: ControlLoRA) -> None:
    trained = sum(parameter.numel() for parameter in control.parameters() if parameter.requires_grad)
    assert trained == sum(tensor.numel() for tensor in export_control(control).values())


def test_names_are_those_of_a_control_lora(control: ControlLoRA) -> None:
    from safetensors import safe_open

    places = (
        r"(input_blocks|middle_block)\.\d+\..*\.(up|down)",
        r"(zero_convs\.\d+\.0|input_hint_block\.\d+|middle_block_out\.0)\.(weight|bias)",
        "lora_controlnet",
    )
    with safe_open(WEIGHTS / "controlnet" / NAME, "pt") as file:
        shipped = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    assert shipped == {name: tuple(tensor.shape) for name, tensor in export_control(control).items()}
    assert all(any(re.fullmatch(place, name) for place in places) for name in shipped)
    assert {shape[1] for name, shape in shipped.items() if name.endswith(".up")} == {RANK}
