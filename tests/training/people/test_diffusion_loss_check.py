"""Validation by held-out pictures on a base model of two layers."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from tests.training.tiny_world import LAYOUT, base_model
from training.base_model.teacher_recovery import TeacherRecovery, held_out_losses
from training.lora_dataset.config import DatasetConfig, PreprocessConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.preprocess import text_path
from training.people import dataset_images as dataset_pictures
from training.people.diffusion_loss_check import DiffusionLossCheck, DiffusionLossCheckSettings


class ToyBase:
    """What `picture_check` wants of a base model. Texts mean nothing to it."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        self.unet, self.working = base_model(), False

    def layout(self, rank, feed_forward):
        return replace(LAYOUT, rank=rank)

    def scheduler(self):
        return DDPMScheduler(prediction_type="epsilon")

    @contextmanager
    def working_unet(self):
        self.working = True
        yield
        self.working = False

    def predict(self, noisy, timesteps, context, pooled, size):
        return self.unet(noisy.flatten(2).mT).mT.reshape(noisy.shape)


@pytest.fixture
def config(tmp_path):
    """A workspace with three people's prepared pictures, two of them kept from training."""
    config = DatasetConfig(tmp_path, tmp_path, preprocess=PreprocessConfig(size=32, held_out=2))
    for number, name in enumerate(("ann", "bob", "cleo")):
        latents = torch.full((4, 4, 4, 4), 3.0 * (number - 1)).half()
        about = {"captions": '["a", "a", "b", "b"]', "places": "[0, 1, 2, 3]", "of": "4"}
        write_tensors(config.stage("preprocess") / f"{name}.safetensors", {"latents": latents}, about)
        Manifest(config.stage("preprocess")).write(Record(name))
    for caption in "ab":
        write_tensors(text_path(config, caption), {"context": torch.zeros(77, 8), "pooled": torch.zeros(8)})
    return config


def teach(check, steps):
    """LoRAs (people, numel) that have learned a little from the very pictures."""
    start = 0.3 * torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(0))
    loras = start.expand(len(check.rows), -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([loras], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        check.loss(loras, check.albums[:], step).sum().backward()
        optimizer.step()
    return loras.detach()


def test_people_with_pictures_are_taken_in_order(config):
    check = DiffusionLossCheck(config, ToyBase(), LAYOUT, ["nobody", "cleo", "ann", "bob"], 2)
    assert check.rows == [1, 2]
    assert [album.name for album in check.albums] == ["cleo", "ann"]


def test_the_gain_is_the_share_of_the_teachers_improvement(config):
    check = DiffusionLossCheck(config, ToyBase(), LAYOUT, ["ann", "cleo"], 8)
    teachers, better = teach(check, 20), teach(check, 60)
    nothing, same, more = (check.figures(loras, teachers) for loras in (0 * teachers, teachers, better))
    assert [found["teacher_recovery"] for found in (nothing, same)] == pytest.approx([0.0, 1.0])
    assert more["teacher_recovery"] > 1.1
    assert more["diffusion_loss"] < more["diffusion_loss_teacher"] < more["diffusion_loss_without_lora"]


def test_no_gain_is_told_where_the_teachers_improve_nothing(config):
    check = DiffusionLossCheck(config, ToyBase(), LAYOUT, ["ann"], 8)
    nothing = torch.zeros(1, LAYOUT.numel)
    assert "teacher_recovery" not in check.figures(teach(check, 5), nothing)
    with pytest.raises(ValueError, match="the teachers are no use on these pictures"):
        TeacherRecovery(check.loss, check.albums, nothing)(nothing)


def test_each_person_is_seen_with_their_own_lora(config):
    check = DiffusionLossCheck(config, ToyBase(), LAYOUT, ["ann", "cleo"], 8)
    loras = teach(check, 60)
    own, others = (held_out_losses(check.loss, x, check.albums) for x in (loras, loras.flip(0)))
    assert (own < others).all()


def test_people_at_once_change_nothing(config):
    check = DiffusionLossCheck(config, ToyBase(), LAYOUT, ["ann", "bob", "cleo"], 8)
    loras = teach(check, 5)
    one, all_of_them = (held_out_losses(check.loss, loras, check.albums, count) for count in (1, 16))
    torch.testing.assert_close(one, all_of_them)


def test_the_base_model_works_only_while_it_is_asked(config):
    base = ToyBase()
    check = DiffusionLossCheck(config, base, LAYOUT, ["ann"], 8)
    predict, seen = base.predict, []
    base.predict = lambda *arguments: (seen.append(base.working), predict(*arguments))[1]
    check.figures(torch.zeros(1, LAYOUT.numel), torch.ones(1, LAYOUT.numel))
    assert set(seen) == {True}
    assert not base.working


@pytest.mark.parametrize(
    ("people", "held_out", "message"),
    [(["nobody"], 2, "preprocess has pictures of none of 1 people"), (["ann"], 0, "preprocess.held_out is 0")],
)
def test_without_held_out_pictures_it_says_so(config, people, held_out, message):
    config = replace(config, preprocess=replace(config.preprocess, held_out=held_out))
    with pytest.raises(ValueError, match=message):
        DiffusionLossCheck(config, ToyBase(), LAYOUT, people, 8)


def test_a_base_model_of_another_layout_is_refused(config, monkeypatch, tmp_path):
    dataset = tmp_path / "dataset.yaml"
    dataset.write_text("{workspace: work, base: base}", encoding="utf-8")
    other = LoRALayout((*LAYOUT.modules, LoRAModule("third", 6, 4)), rank=2)
    monkeypatch.setattr(dataset_pictures.SDXLBase, "open", lambda *arguments: ToyBase())
    with pytest.raises(ValueError, match="does not fit the LoRAs"):
        DiffusionLossCheck.open(DiffusionLossCheckSettings(dataset), other, ["ann"], "cpu")


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found 0 and 1"):
        DiffusionLossCheckSettings(tmp_path, people=0)
