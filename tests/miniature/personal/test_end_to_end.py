"""The miniature's own tuning through pictures, on real teachers and its real base model, for a few steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.denoiser.model import Denoiser
from miniature.base_model.checkpoint import load_checkpoint
from miniature.comfyui.host import find_host
from miniature.paths import WEIGHTS
from miniature.personal import end_to_end as tuning
from miniature.personal.held_out import HeldOut
from miniature.personal.person_images import draw_albums
from miniature.personal.teachers import layout
from miniature.world.image_blocks import BLOCK, TEACHER_PICTURES, training_blocks
from training.store.lora_store import LoRAStore

TOKENIZER = find_host() / "comfy" / "sd1_tokenizer"
TAUGHT, EVERYONE = 3, 5


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder with the first five people, of whom three have a teacher: shipped ones, whoever's they are."""
    dice = torch.Generator().manual_seed(0)
    held_out = HeldOut.load()
    store = LoRAStore(tmp_path / "teachers", layout())
    store.add("train", list(range(TAUGHT)), held_out.teachers[:TAUGHT].float())
    store.add("validation", list(held_out.people[-2:]), held_out.teachers[-2:].float())
    _, vae = load_checkpoint(WEIGHTS)
    drawn = torch.stack([one.latents for one in draw_albums(vae, range(EVERYONE), 4)])
    latents = torch.zeros(BLOCK, TEACHER_PICTURES, 4, 16, 16)
    latents[:EVERYONE] = drawn.repeat(1, TEACHER_PICTURES // 4, 1, 1, 1)
    (tmp_path / "latents").mkdir()
    save_file({"latents": latents}, tmp_path / "latents" / f"{training_blocks()[0].name}.safetensors")
    (tmp_path / "conditions").mkdir()
    for name, people in (("everyone", list(range(EVERYONE))), ("validation", list(held_out.people[-2:]))):
        faces, images = (torch.randn(len(people), 4, 8, generator=dice) for _ in range(2))
        about = {"face": faces, "image": images, "person": torch.tensor(people)}
        save_file(about, tmp_path / "conditions" / f"{name}.safetensors")
    monkeypatch.setattr(tuning, "in_processes", lambda function, processes, *rest: function(0, 1, *rest))
    for name, rate in (("LAE_PICTURES", 1e-4), ("DENOISER_PICTURES", 0.01)):
        usual = getattr(tuning, name)
        short = replace(usual.loop, steps=2, warmup=0, learning_rate=rate, ema=0.0)
        monkeypatch.setattr(tuning, name, replace(usual, loop=short, people=2))
        monkeypatch.setattr(tuning, name.replace("PICTURES", "ROUNDS"), 1)
    return tmp_path


def fitted() -> LAE:
    """On LoRAs of other people than the pictures are of: there is something to be learned."""
    lae = LAE(layout(), LAEConfig(kind="linear", tokens=2, width=1))
    lae.fit(HeldOut.load().teachers[:TAUGHT].float())
    return lae


def test_the_autoencoder_is_tuned_and_its_latents_are_standardised_anew(build):
    lae = fitted()
    before = lae.network.basis.detach().clone()
    figures = tuning.tune_lae(lae, build, WEIGHTS, TOKENIZER, 2)
    assert list(figures) == ["fitted", "step 2"]
    assert figures["step 2"]["teacher_recovery"] > figures["fitted"]["teacher_recovery"]
    assert not torch.equal(lae.network.basis, before)
    latents = lae.encode(LoRAStore(build / "teachers", layout()).read("train")[0])
    torch.testing.assert_close(latents.mean(0), torch.zeros(2, 1), atol=1e-4, rtol=0)
    again = fitted()
    assert tuning.tune_lae(again, build, WEIGHTS, TOKENIZER, 2) == figures, "a finished run is read"
    assert torch.equal(again.network.basis, lae.network.basis)


def test_mif_and_dit_are_tuned_for_people_without_teachers_too(build):
    lae = fitted()
    frozen = lae.network.basis.detach().clone()
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8), MIFConfig(8, 8, 8))
    torch.nn.init.constant_(denoiser.dit.out.bias, 3.0)  # far from everybody: whatever is learned is better
    figures = tuning.tune_denoiser(denoiser, lae, build, WEIGHTS, TOKENIZER, 2)
    assert list(figures) == ["before", "step 2"]
    assert figures["step 2"]["teacher_recovery"] > figures["before"]["teacher_recovery"]
    assert {f"teacher_recovery_{steps}_steps" for steps in (1, 4, 20)} < figures["before"].keys()
    assert not torch.equal(denoiser.dit.out.bias, torch.full((1,), 3.0))
    assert torch.equal(lae.network.basis, frozen)
