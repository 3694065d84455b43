"""Refinement through a diffusers base model: its functions against diffusers' own, and what it does to a LoRA."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from difflora_core.config import RefinementSettings
from difflora_core.lora.lora import LoRA
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw_references
from training.base_model.batched_loras import stacked_loras
from training.base_model.diffusion_loss import DiffusionLoss, predictor
from training.base_model.held_out_loss import mean_loss
from training.base_model.person_images import PersonImages
from training.base_model.sdxl import SDXLBase
from training.dreambooth.refine import NoisyBase, refine_lora

CAPTION = "a portrait of a person"


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> SDXLBase:
    return SDXLBase.open(sdxl_folder)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_clean_latent_is_that_of_diffusers(kind: str) -> None:
    """`pred_original_sample` of its scheduler, from the latent of unit variance."""
    schedule = DDPMScheduler(prediction_type=kind, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 4, 2, 2, generator=generator)

    class Base:
        device = torch.device("cpu")

        def __init__(self) -> None:
            self.seen: list[int] = []

        def scheduler(self) -> DDPMScheduler:
            return schedule

        def predict(self, noisy: Tensor, timesteps: Tensor, texts: dict[str, Tensor], size: int) -> Tensor:
            self.seen[:] = timesteps.tolist()
            assert texts["context"].shape == (2, 7, 3)
            return output

    base = Base()
    noisy_base = NoisyBase(base, {"context": torch.zeros(1, 7, 3)}, 32)  # type: ignore[arg-type]
    sigmas = noisy_base.noise_levels(torch.tensor([0.25, 0.9999]))
    noisy = torch.randn(2, 4, 2, 2, generator=generator)
    found = noisy_base.denoise(noisy, sigmas)
    assert base.seen == [250, 999]
    for row, timestep in enumerate(base.seen):
        scaled = noisy[row] * schedule.alphas_cumprod[timestep].sqrt()
        expected = schedule.step(output[row], timestep, scaled, generator=generator).pred_original_sample
        assert torch.allclose(found[row], expected, rtol=1e-4, atol=1e-4)


def test_refinement_lowers_the_loss_on_the_persons_other_images(sdxl: SDXLBase) -> None:
    """From the teacher of somebody else, whose LoRA has to become this person's."""
    held_out = HeldOutTeachers.load()
    layout = sdxl.layout(4, True)
    start = LoRA(held_out.teachers[1].float(), layout, {"seed": 3})

    def latents(seed: int) -> Tensor:
        images = np.stack(draw_references(held_out.people[0], np.random.default_rng(seed), 4))
        return sdxl.encode_images(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0)

    settings = RefinementSettings(steps=30, learning_rate=5e-3, batch_size=4)
    refined = refine_lora(sdxl, start, latents(0), CAPTION, 128, settings, seed=1)
    others = PersonImages.complete("others", latents(1), torch.zeros(4, dtype=torch.long))
    loss = DiffusionLoss(predictor(sdxl, sdxl.encode_text([CAPTION]), 128), sdxl.scheduler(), [others], 16)

    def mean_with(lora: LoRA) -> float:
        with stacked_loras(sdxl.unet, layout, lora.flat[None]), torch.no_grad():
            return float(mean_loss(loss))

    assert mean_with(refined) < 0.95 * mean_with(start)
    assert refined.made_by == {
        "seed": 3,
        "refined": {"steps": 30, "learning_rate": 5e-3, "batch_size": 4, "seed": 1, "caption": CAPTION},
    }
    short = RefinementSettings(steps=2, learning_rate=5e-3, batch_size=2)
    one, two = (refine_lora(sdxl, start, latents(0), CAPTION, 128, short, seed=1).flat for _ in range(2))
    assert torch.equal(one, two)


def test_the_last_noise_level_is_finite(sdxl: SDXLBase) -> None:
    """The miniature has zero terminal SNR."""
    levels = NoisyBase(sdxl, sdxl.encode_text([CAPTION]), 128).sigmas
    assert sdxl.scheduler().alphas_cumprod[-1] < 1e-8
    assert levels.isfinite().all()
    assert (levels.diff() > 0).all()
