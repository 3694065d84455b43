"""The shipped image encoder, loaded by transformers, on validation people only."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from miniature.encoders.clip_vision import FOLDER, encode, load_image_encoder, preprocess
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import Scene

PEOPLE = split_people("validation")[:6]


@pytest.fixture(scope="module")
def images() -> dict[str, list[Image.Image]]:
    """The same people against two backgrounds."""
    scenes = {
        "plain": Scene(background="blue"),
        "other": Scene(background="pink", expression="smiling", shirt="green shirt"),
    }
    return {name: [Image.fromarray(draw(person(i), scene).image) for i in PEOPLE] for name, scene in scenes.items()}


def test_same_image_same_embedding(images):
    first, second = encode(images["plain"]), encode(images["plain"])
    assert first.shape == (len(PEOPLE), 96)
    assert torch.equal(first, second)


def test_processor_and_training_see_the_same_pixels(images):
    _, processor = load_image_encoder()
    theirs = processor(images=images["plain"], return_tensors="pt")["pixel_values"]
    ours = preprocess(np.stack([np.asarray(image) for image in images["plain"]]))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_looks_outlast_a_change_of_scene(images):
    first, second = (torch.nn.functional.normalize(encode(images[name])) for name in ("plain", "other"))
    first, second = first - first.mean(0), second - second.mean(0)
    assert ((first @ second.T).argmax(1) == torch.arange(len(PEOPLE))).float().mean() >= 0.5


def test_configuration_is_complete_for_comfyui():
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    needed = "num_hidden_layers hidden_size num_attention_heads intermediate_size hidden_act model_type num_channels"
    needed += " patch_size image_size projection_dim"
    assert set(needed.split()) <= set(config)
    assert config["hidden_act"] == "quick_gelu"


def test_missing_folder_names_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m miniature build"):
        load_image_encoder(tmp_path)
