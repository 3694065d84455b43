"""Validation by pictures on a toy base model whose error a LoRA changes in a known way."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from difflora_core.layout import LoRALayout, LoRAModule
from difflora_core.tensor_file import write_tensors
from training.lora_dataset.config import DatasetConfig, PreprocessConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.preprocess import text_path
from training.picture_check import PictureCheck, PictureSettings

LAYOUT = LoRALayout((LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),), rank=2)


class ToyBase:
    """Predicts the noise scaled by (1 − the LoRA's first number): a LoRA of 1 removes the error of a LoRA of 0."""

    device = torch.device("cpu")

    def __init__(self):
        self.strength = 0.0
        self.seen = []

    def layout(self, rank, feed_forward):
        return replace(LAYOUT, rank=rank)

    def scheduler(self):
        return DDPMScheduler(prediction_type="epsilon")

    @contextmanager
    def lora(self, flat, layout):
        self.strength = float(flat[0])
        yield
        self.strength = 0.0

    def predict(self, noisy, timesteps, context, pooled, size):
        self.seen.append(noisy)
        return torch.full_like(noisy, 3.0 * (1.0 - self.strength))


@pytest.fixture
def config(tmp_path):
    """A workspace with three people's prepared pictures, two of them kept from training."""
    config = DatasetConfig(tmp_path, tmp_path, preprocess=PreprocessConfig(size=32, held_out=2))
    for number, name in enumerate(("ann", "bob", "cleo")):
        latents = torch.full((4, 4, 4, 4), float(number)).half()
        about = {"captions": '["a", "a", "b", "b"]', "places": "[0, 1, 2, 3]", "of": "4"}
        write_tensors(config.stage("preprocess") / f"{name}.safetensors", {"latents": latents}, about)
        Manifest(config.stage("preprocess")).write(Record(name))
    for caption in "ab":
        write_tensors(text_path(config, caption), {"context": torch.zeros(77, 8), "pooled": torch.zeros(8)})
    return config


def loras(*firsts):
    made = torch.zeros(len(firsts), LAYOUT.numel)
    made[:, 0] = torch.tensor(firsts)
    return made


def test_people_with_pictures_are_taken_in_order(config):
    check = PictureCheck(config, ToyBase(), LAYOUT, ["nobody", "cleo", "ann", "bob"], 2)
    assert check.rows == [1, 2]


def test_the_gain_is_how_much_of_the_teachers_improvement_is_left(config):
    check = PictureCheck(config, ToyBase(), LAYOUT, ["ann", "bob"], 8)
    teachers = loras(1.0, 1.0)
    as_teachers, as_nothing = (check.figures(loras(value, value), teachers)["picture_gain"] for value in (1.0, 0.0))
    assert (as_teachers, as_nothing) == pytest.approx((1.0, 0.0))
    half = check.figures(loras(0.5, 0.5), teachers)
    assert 0 < half["picture_gain"] < 1
    assert half["picture_loss_teacher"] < half["picture_loss"] < half["picture_loss_without"]


def test_no_gain_is_told_where_the_teachers_improve_nothing(config):
    check = PictureCheck(config, ToyBase(), LAYOUT, ["ann"], 8)
    assert "picture_gain" not in check.figures(loras(0.5), loras(0.0))


def test_each_person_is_seen_with_their_own_lora(config):
    check = PictureCheck(config, ToyBase(), LAYOUT, ["ann", "bob"], 8)
    one, other = check.losses(loras(1.0, 0.0)), check.losses(loras(0.0, 1.0))
    assert one[0] < other[0]
    assert one[1] > other[1]


def test_the_same_question_has_the_same_answer(config):
    check = PictureCheck(config, ToyBase(), LAYOUT, ["ann", "bob"], 8)
    assert torch.equal(check.losses(loras(0.3, 0.4)), check.losses(loras(0.3, 0.4)))


@pytest.mark.parametrize(
    ("people", "held_out", "message"),
    [(["nobody"], 2, "preprocess has pictures of none of 1 people"), (["ann"], 0, "preprocess.held_out is 0")],
)
def test_without_held_out_pictures_it_says_so(config, people, held_out, message):
    config = replace(config, preprocess=replace(config.preprocess, held_out=held_out))
    with pytest.raises(ValueError, match=message):
        PictureCheck(config, ToyBase(), LAYOUT, people, 8)


def test_a_base_model_of_another_layout_is_refused(config):
    other = LoRALayout((*LAYOUT.modules, LoRAModule("mid_block.other.attn1.to_k", 6, 4)), rank=2)
    with pytest.raises(ValueError, match="does not fit the LoRAs"):
        PictureCheck(config, ToyBase(), other, ["ann"], 8)


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found 0 and 1"):
        PictureSettings(tmp_path, people=0)
