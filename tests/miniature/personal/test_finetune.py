"""The miniature's own end-to-end fine-tuning, on real teachers and its real base model, for a few steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import LATENT_SHAPE, lora_layout
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from miniature.personal import finetune, joint
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw
from miniature.world.image_blocks import BLOCK, TEACHER_IMAGES, training_blocks
from miniature.world.people import person
from miniature.world.scenes import training_scene
from training.store.lora_store import LoRAStore

TOKENIZER = find_tokenizer()
TEACHERS, PEOPLE = 3, 5


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder with five training people, of whom three have a teacher.

    In their places held-out people are drawn, who have shipped teachers; the last two of them are the validation
    people, so that what is learned shows in validation.
    """
    generator = torch.Generator().manual_seed(0)
    held_out = HeldOutTeachers.load()
    store = LoRAStore(tmp_path / "teachers", lora_layout())
    store.add("train", list(range(TEACHERS)), held_out.teachers[-TEACHERS:].float())
    store.add("validation", list(held_out.people[-2:]), held_out.teachers[-2:].float())
    _, vae = load_checkpoint(WEIGHTS)
    latents = torch.zeros(BLOCK, TEACHER_IMAGES, *LATENT_SHAPE)
    for row, index in enumerate((*held_out.people[-TEACHERS:], *held_out.people[: PEOPLE - TEACHERS])):
        images = [draw(person(index), training_scene(row, number)).image for number in range(TEACHER_IMAGES)]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
        latents[row] = vae.encode(pixels)
    (tmp_path / "latents").mkdir()
    save_file({"latents": latents}, tmp_path / "latents" / f"{training_blocks()[0].name}.safetensors")
    (tmp_path / "conditions").mkdir()
    for name, people in (("all_people", list(range(PEOPLE))), ("validation", list(held_out.people[-2:]))):
        faces, images = (torch.randn(len(people), 4, 8, generator=generator) for _ in range(2))
        about = {"face": faces, "image": images, "person": torch.tensor(people)}
        save_file(about, tmp_path / "conditions" / f"{name}.safetensors")
    monkeypatch.setattr(finetune, "in_processes", lambda function, processes, *rest: function(0, 1, *rest))
    for name, steps, rate in (("LAE_FINETUNING", 6, 1e-4), ("DENOISER_FINETUNING", 20, 0.03)):
        usual = getattr(finetune, name)
        short = replace(usual.loop, steps=steps, warmup=0, learning_rate=rate, ema=0.0)
        monkeypatch.setattr(finetune, name, replace(usual, loop=short, people=2))
    monkeypatch.setattr(joint, "in_processes", finetune.in_processes)
    return tmp_path


def fitted() -> LAE:
    """Fitted to LoRAs of other people than the images show: there is something to learn."""
    lae = LAE(lora_layout(), LAEConfig(kind="linear", tokens=2, width=1))
    lae.fit(HeldOutTeachers.load().teachers[:TEACHERS].float())
    return lae


def test_the_autoencoder_is_finetuned_and_its_latents_are_standardized_anew(build):
    lae = fitted()
    before = lae.network.basis.detach().clone()
    history = finetune.finetune_lae_in_processes(lae, build, WEIGHTS, TOKENIZER, 2)
    assert list(history) == [0, 6]
    assert not torch.equal(lae.network.basis, before)
    assert history[6]["teacher_recovery"] > history[0]["teacher_recovery"] + 0.01
    latents = lae.encode(LoRAStore(build / "teachers", lora_layout()).read("train")[0])
    torch.testing.assert_close(latents.mean(0), torch.zeros(2, 1), atol=1e-4, rtol=0)
    again = fitted()
    assert finetune.finetune_lae_in_processes(again, build, WEIGHTS, TOKENIZER, 2) == history, "a finished run is read"
    assert torch.equal(again.network.basis, lae.network.basis)


def test_mif_and_dit_are_finetuned_for_people_without_teachers_too(build):
    lae = fitted()
    frozen = lae.network.basis.detach().clone()
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8), MIFConfig(8, 8, 8))
    torch.nn.init.constant_(denoiser.dit.out.bias, 1.0)  # far from all people: whatever is learned is better
    history = finetune.finetune_denoiser_in_processes(denoiser, lae, build, WEIGHTS, TOKENIZER, 2)
    assert list(history) == [0, 20]
    assert history[20]["teacher_recovery"] > 0.6 * history[0]["teacher_recovery"]
    assert {f"teacher_recovery_{steps}_steps" for steps in (1, 4, 20)} < history[0].keys()
    assert not torch.equal(denoiser.dit.out.bias, torch.full((1,), 1.0))
    assert torch.equal(lae.network.basis, frozen)


@pytest.mark.parametrize("run", joint.JOINT_RUNS, ids=lambda run: run.name)
def test_all_are_trained_together(build, run):
    loop = replace(run.config.loop, steps=10, warmup=0, learning_rate=1e-3, ema=0.0)
    run = replace(run, config=replace(run.config, loop=loop, people=4, teachers=1))
    lae = fitted()
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8), MIFConfig(8, 8, 8))
    torch.nn.init.constant_(denoiser.dit.out.bias, 1.0)  # far from all people: whatever is learned is better
    history = joint.train_together_in_processes(run, denoiser, lae, build, WEIGHTS, TOKENIZER, 2)
    assert list(history) == [0, 10]
    assert history[10]["teacher_recovery"] > 0.6 * history[0]["teacher_recovery"]
    assert history[10]["reconstruction_recovery"] > history[0]["reconstruction_recovery"] + 0.1
    again, same = fitted(), Denoiser(denoiser.dit.config, denoiser.mif.config)
    assert joint.train_together_in_processes(run, same, again, build, WEIGHTS, TOKENIZER, 2) == history
    assert torch.equal(again.network.basis, lae.network.basis), "a finished run is read"
    assert torch.equal(same.mif.null, denoiser.mif.null)
