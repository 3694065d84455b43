"""The shipped base model is one model: ComfyUI and diffusers compute the same with it, and patch the same modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from difflora_core.lora.file_formats import save_lora
from difflora_core.model import DiffLoRA
from miniature.base_model.checkpoint import checkpoint_path, read_checkpoint
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.single_file import SingleFile
from miniature.comfyui.host import find_host
from miniature.paths import ROOT, WEIGHTS

SDXL = checkpoint_path(WEIGHTS)
CHECKPOINT = WEIGHTS / "difflora" / "miniature.safetensors"
TIME_IDS = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def parts() -> SingleFile:
    return read_checkpoint(WEIGHTS)


@pytest.fixture(scope="module")
def inputs(parts: SingleFile) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    config = parts.unet.config
    return {
        "x": torch.randn(2, config["in_channels"], 16, 16, generator=generator),
        "timestep": torch.tensor([999.0, 321.0]),
        "context": torch.randn(2, 77, config["cross_attention_dim"], generator=generator),
        "pooled": torch.randn(2, parts.text_encoder_2.config.projection_dim, generator=generator),
        "latent": torch.randn(1, config["in_channels"], 16, 16, generator=generator),
    }


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A random LoRA of the shipped layout, as kohya file, as PEFT file, and its number of modules."""
    layout = DiffLoRA.load(CHECKPOINT).layout
    folder = tmp_path_factory.mktemp("lora")
    flat = 0.1 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(2))
    save_lora(folder / "kohya.safetensors", flat, layout, format="kohya")
    save_lora(folder / "peft.safetensors", flat, layout, format="peft")
    return folder / "kohya.safetensors", folder / "peft.safetensors", len(layout.modules)


def in_host(inputs: dict[str, Tensor], folder: Path, *lora: Path) -> dict[str, Tensor]:
    """Evaluate the checkpoint in ComfyUI's own code, in a process of its own."""
    save_file(inputs, folder / "inputs.safetensors")
    script, outputs = Path(__file__).with_name("networks_in_host.py"), folder / "outputs.safetensors"
    command = [sys.executable, script, find_host(), SDXL, folder / "inputs.safetensors", outputs, *lora]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(outputs)


@pytest.fixture(scope="module")
def plain(inputs: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return in_host(inputs, tmp_path_factory.mktemp("plain"))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def unet(parts: SingleFile, inputs: dict[str, Tensor]) -> Tensor:
    added = {"text_embeds": inputs["pooled"], "time_ids": TIME_IDS.repeat(2, 1)}
    return parts.unet(inputs["x"], inputs["timestep"], inputs["context"], added_cond_kwargs=added).sample


def test_same_unet(parts: SingleFile, inputs: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert difference(plain["unet"], unet(parts, inputs)) < TOLERANCE


@torch.no_grad()
def test_same_text_encoders(parts: SingleFile, plain: dict[str, Tensor]) -> None:
    first = parts.text_encoder(plain["tokens_l"][None], output_hidden_states=True)
    second = parts.text_encoder_2(plain["tokens_g"][None], output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    assert difference(plain["context"], context) < TOLERANCE
    assert difference(plain["pooled"], second.text_embeds) < TOLERANCE


def test_image_size_and_noise(plain: dict[str, Tensor]) -> None:
    assert plain["image"].shape == (1, 128, 128, 3)
    assert plain["encoded"].shape == (1, *LATENT_SHAPE)
    assert plain["sigmas"][-1] > 1000, "zero terminal signal-to-noise ratio: the last noise level drowns everything"


def test_every_module_arrives_in_both(
    parts: SingleFile, inputs: dict[str, Tensor], plain: dict[str, Tensor], lora: tuple[Path, Path, int], tmp_path: Path
) -> None:
    """ComfyUI patches n of n modules from kohya names, diffusers from PEFT names, with the same result."""
    kohya, peft, modules = lora
    patched = in_host(inputs, tmp_path, kohya)
    assert int(patched["patched"]) == modules
    assert difference(patched["unet"], plain["unet"]) > 10 * TOLERANCE
    parts.unet.load_lora_adapter(load_file(peft), prefix="unet")
    try:
        adapted = [module for module in parts.unet.modules() if hasattr(module, "lora_A")]
        assert len(adapted) == modules
        assert difference(patched["unet"], unet(parts, inputs)) < TOLERANCE
    finally:
        parts.unet.unload_lora()


def test_same_image_encoder(tmp_path: Path) -> None:
    """ComfyUI's own CLIP vision gives the embeddings that transformers gives, and DiffLoRA was trained with."""
    command = [sys.executable, Path(__file__).with_name("clip_vision_in_host.py"), find_host()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.splitlines()[-1]) > 0.999
