"""ImageReward against an implementation that is written down once more, and files that are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.training.evaluation.independent_networks import bert, linear, timm_vit
from tests.training.evaluation.small_models import PROMPTS, HostilePickle, image_reward_state, noise, write_image_reward
from training.evaluation.metrics.image_reward import ImageReward
from training.evaluation.metrics.metric import PersonSample

SAMPLE = PersonSample(noise(3), PROMPTS, noise(1, seed=1))
IDS = {"a": 5, "photo": 6, "of": 7, "person": 8, "hat": 10, ",": 11, "in": 12, "red": 13}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_reward(tmp_path_factory.mktemp("image_reward"))


def reward(image, prompt):
    from PIL import Image
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(32, interpolation=bicubic), transforms.CenterCrop(32), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    state = image_reward_state()
    seen = timm_vit(
        transforms.Compose(steps)(Image.fromarray(image)),
        lambda name: state[f"blip.visual_encoder.{name}"],
        layers=2,
        heads=2,
    )
    words = [2, *[IDS[word] for word in prompt.replace(",", " ,").split()], 3]
    ids = torch.tensor(words + [0] * (35 - len(words)))
    text = bert(ids, (ids > 0).long(), seen, lambda name: state[f"blip.text_encoder.{name}"], layers=2, heads=3)
    x = text[0]
    for number in (0, 2, 4, 6, 7):
        x = linear(x, state.__getitem__, f"mlp.layers.{number}")
    return (float(x) - 0.16717362830052426) / 1.0333394966054072


def test_it_is_the_reward_of_the_official_layout(folder):
    metric = ImageReward.open(folder)
    expected = [reward(image, prompt) for image, prompt in zip(SAMPLE.images, PROMPTS, strict=True)]
    scores = metric.score(SAMPLE)
    assert list(scores) == list(metric.columns)
    assert scores["ImageReward"] == pytest.approx(expected, rel=1e-4)


def test_rewards_depend_on_image_and_prompt(folder):
    metric = ImageReward.open(folder)
    turned = PersonSample(SAMPLE.images, PROMPTS[::-1], SAMPLE.references)
    found, other = (metric.score(sample)["ImageReward"] for sample in (SAMPLE, turned))
    assert found[1] == pytest.approx(other[1], rel=1e-5)
    assert abs(found[0] - other[0]) > 1e-3 * abs(found[0])
    assert abs(found[1] - reward(SAMPLE.images[0], PROMPTS[1])) > 1e-3 * abs(found[1])


def test_words_beyond_the_official_length_are_cut_off(folder):
    # Of 35 tokens two mark start and end: the 33rd word counts, the 34th does not
    reward = ImageReward.open(folder)

    def alone(end: str) -> float:  # rows of one batch may be summed in another order
        sample = PersonSample(SAMPLE.images[:1], ["a " * 32 + end], SAMPLE.references)
        return float(reward.score(sample)["ImageReward"][0])

    assert alone("hat hat") == alone("hat red")
    assert alone("hat hat") != alone("red red")


def test_a_safetensors_file_of_the_same_names(folder, tmp_path):
    (write_image_reward(tmp_path) / "ImageReward.pt").unlink()
    save_file(image_reward_state(), tmp_path / "ImageReward.safetensors")
    found, expected = (ImageReward.open(where).score(SAMPLE)["ImageReward"] for where in (tmp_path, folder))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["ImageReward.pt", "med_config.json", "vocab.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_image_reward(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no .*{name}"):
        ImageReward.open(tmp_path)


def _without(name):
    return {key: value for key, value in image_reward_state().items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_without("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"), "lacks 1 tensors, first text.enc"),
        (_without("blip.visual_encoder.pos_embed"), "lacks blip.visual_encoder.pos_embed"),
        (image_reward_state() | {"extra": torch.zeros(1)}, "has unknown 1 tensors, first extra"),
        (image_reward_state() | {"mlp.layers.7.bias": torch.zeros(2)}, r"head.7.bias is \(2,\), expected \(1,\)"),
        (image_reward_state() | {"mlp.layers.7.bias": torch.tensor([torch.nan])}, "mlp.layers.7.bias holds NaN"),
        ({"state_dict": image_reward_state()}, "holds a dict, expected tensors by name"),
        ({}, "its first tensor is 'none: it is empty'"),
    ],
)
def test_other_tensors_are_refused(tmp_path, state, message):
    with pytest.raises(ValueError, match=message):
        ImageReward.open(write_image_reward(tmp_path, state))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ImageReward.pt", "<!doctype html>", "HTML page"),
        ("med_config.json", "{", "can't be loaded"),
        ("med_config.json", "[]", "holds a list, expected an object"),
        ("med_config.json", json.dumps({"vocab_size": 16}), "hidden_size is None, expected a positive integer"),
        ("vocab.txt", "[PAD]\na", r"vocab.txt lacks \[UNK\]"),
        (
            "vocab.txt",
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(99))]),
            "has 104 tokens",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (write_image_reward(tmp_path) / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ImageReward.open(tmp_path)


def test_no_code_of_a_pickle_is_run(tmp_path):
    marker = tmp_path / "was run"
    write_image_reward(tmp_path, image_reward_state() | {"extra": HostilePickle(marker)})
    with pytest.raises(ValueError, match="more than tensors"):
        ImageReward.open(tmp_path)
    assert not marker.exists()
