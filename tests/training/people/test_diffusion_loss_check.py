"""Validation by the diffusion loss on held-out images, on a base model of two layers."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from tests.training.tiny_world import LAYOUT, base_model
from training.lora_dataset.config import DatasetConfig, PreprocessConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.preprocess import text_path
from training.people.config import DiffusionLossCheckSettings
from training.people.dataset_images import DatasetImages, dataset_loss
from training.people.diffusion_loss_check import DiffusionLossCheck

PEOPLE = ("ann", "bob", "cleo")


class ToyBase:
    """What the check needs of a base model. Texts mean nothing to it."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        self.unet, self.working = base_model(), False

    def layout(self, rank, feed_forward):
        return replace(LAYOUT, rank=rank)

    def scheduler(self):
        return DDPMScheduler(prediction_type="epsilon")

    @contextmanager
    def unet_on_device(self):
        self.working = True
        yield
        self.working = False

    def predict(self, noisy, timesteps, texts, size):
        return self.unet(noisy.flatten(2).mT).mT.reshape(noisy.shape)


@pytest.fixture
def config(tmp_path):
    """A workspace with three people's prepared images, two of each held out."""
    config = DatasetConfig(tmp_path, tmp_path, preprocess=PreprocessConfig(size=64, held_out=2))
    for number, name in enumerate(PEOPLE):
        latents = torch.full((4, 4, 4, 4), 3.0 * (number - 1)).half()
        about = {"captions": '["a", "a", "b", "b"]', "positions": "[0, 1, 2, 3]", "prompt_count": "4", "size": "64"}
        write_tensors(config.stage("preprocess") / f"{name}.safetensors", {"latents": latents}, about)
        Manifest(config.stage("preprocess")).write(Record(name))
    for caption in "ab":
        write_tensors(text_path(config, caption), {"context": torch.zeros(77, 8), "pooled": torch.zeros(8)})
    return config


def open_check(config, monkeypatch, people, base=None, count=8, layout=LAYOUT):
    """The check of some people, whose teachers are a little trained on the very images."""
    monkeypatch.setattr("training.people.diffusion_loss_check.load_config", lambda path: config)
    monkeypatch.setattr("training.people.dataset_images.open_configured_base", lambda *_, **__: base or ToyBase())
    known = [name for name in people if name in PEOPLE]
    teachers = train_loras(config, known, 20)
    rows = torch.zeros(len(people), LAYOUT.numel)
    rows[[people.index(name) for name in known]] = teachers
    settings = DiffusionLossCheckSettings(config.workspace / "dataset.yaml", count)
    return DiffusionLossCheck(settings, layout, people, LoRAsOfTest(rows), torch.device("cpu"))


class LoRAsOfTest:
    """LoRAs in memory, zeros allowed."""

    def __init__(self, loras):
        self.loras = loras

    def __len__(self):
        return len(self.loras)

    def read(self, rows):
        return self.loras[list(rows)]


def train_loras(config, people, steps):
    """LoRAs (people, numel) trained on the people's held-out images."""
    images = DatasetImages(config, people, held_out=True)
    loss = dataset_loss(ToyBase(), LAYOUT, images, 4)
    start = 0.3 * torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))
    loras = start.expand(len(people), -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([loras], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss(loras, images[:], step).sum().backward()
        optimizer.step()
    return loras.detach()


def test_people_with_images_are_taken_in_order(config, monkeypatch):
    check = open_check(config, monkeypatch, ["nobody", "cleo", "ann", "bob"], count=2)
    assert (check.rows, check.people) == ([1, 2], ["cleo", "ann"])
    assert torch.equal(check.teachers, train_loras(config, ["cleo", "ann", "bob"], 20)[:2])


def test_recovery_is_the_share_of_the_teachers_improvement(config, monkeypatch):
    check = open_check(config, monkeypatch, ["ann", "cleo"])
    better = train_loras(config, ["ann", "cleo"], 60)
    nothing, same, more = (check.metrics(loras) for loras in (0 * check.teachers, check.teachers, better))
    assert [found["teacher_recovery"] for found in (nothing, same)] == pytest.approx([0.0, 1.0])
    assert more["teacher_recovery"] > 1.1
    assert more["diffusion_loss"] < more["diffusion_loss_teacher"] < more["diffusion_loss_without_lora"]


def test_every_so_many_evaluations_it_is_due(config, monkeypatch):
    check = open_check(config, monkeypatch, ["ann"])
    check.settings = replace(check.settings, every=3)
    assert [number for number in range(8) if check.is_due(number)] == [0, 3, 6]


def test_the_base_model_is_on_its_device_only_while_it_is_used(config, monkeypatch):
    base = ToyBase()
    check = open_check(config, monkeypatch, ["ann"], base)
    predict, used = base.predict, []
    base.predict = lambda *arguments: (used.append(base.working), predict(*arguments))[1]
    check.metrics(torch.zeros(1, LAYOUT.numel))
    assert set(used) == {True}
    assert not base.working


@pytest.mark.parametrize(
    ("people", "held_out", "message"),
    [(["nobody"], 2, "preprocess has images of none of 1 people"), (["ann"], 0, "preprocess.held_out is 0")],
)
def test_without_held_out_images_it_is_refused(config, monkeypatch, people, held_out, message):
    without = replace(config, preprocess=replace(config.preprocess, held_out=held_out))
    monkeypatch.setattr("training.people.diffusion_loss_check.load_config", lambda path: without)
    settings = DiffusionLossCheckSettings(config.workspace)
    with pytest.raises(ValueError, match=message):
        DiffusionLossCheck(settings, LAYOUT, people, LoRAsOfTest(torch.zeros(1, LAYOUT.numel)), torch.device("cpu"))


def test_a_base_model_of_another_layout_is_refused(config, monkeypatch):
    other = LoRALayout((*LAYOUT.modules, LoRAModule("third", 6, 4)), rank=2)
    check = open_check(config, monkeypatch, ["ann"], layout=other)
    with pytest.raises(ValueError, match="does not fit the LoRAs"):
        check.metrics(torch.zeros(1, other.numel))


def test_settings_below_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match="people: found 0, expected an integer of at least 1"):
        DiffusionLossCheckSettings(tmp_path, people=0)
