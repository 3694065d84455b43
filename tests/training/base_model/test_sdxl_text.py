"""Tokens that are added to the miniature's text encoders: the same as diffusers' own, and gone afterwards."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.base_model.sdxl import SDXLBase

TOKEN = "<person>"
PROMPTS = ["a portrait of a <person>, smiling", "<person>", "a portrait of a person, red shirt"]


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> SDXLBase:
    return SDXLBase.open(sdxl_folder)


def random_vectors(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        name: 0.2 * torch.randn(count, width, generator=generator) for name, width in (("clip_l", 32), ("clip_g", 64))
    }


@pytest.mark.parametrize("count", [1, 3])
def test_the_same_as_diffusers_own_loader(sdxl_folder: Path, sdxl: SDXLBase, count: int) -> None:
    """Text conditions, and the gradients that training gets, which diffusers' example takes from the whole table."""
    vectors = {name: vector.requires_grad_() for name, vector in random_vectors(count).items()}
    other, parts = SDXLBase.open(sdxl_folder), {}
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = (
            getattr(other.pipeline, f"text_encoder{suffix}"),
            getattr(other.pipeline, f"tokenizer{suffix}"),
        )
        other.pipeline.load_textual_inversion(
            vectors[name].detach(), token=TOKEN, text_encoder=encoder, tokenizer=tokenizer
        )
        parts[name] = encoder.get_input_embeddings().requires_grad_().weight
    expected = other.encode_text(PROMPTS)
    with sdxl.added_token(TOKEN, vectors):
        found = sdxl.encode_text(PROMPTS)
    for name in ("context", "pooled"):
        assert torch.equal(found[name], expected[name]), name
    for texts in (found, expected):
        (texts["context"].square().sum() + texts["pooled"].sin().sum()).backward()
    for name, table in parts.items():
        assert torch.allclose(vectors[name].grad, table.grad[-count:], rtol=1e-4, atol=1e-6), name
        assert vectors[name].grad.abs().sum() > 0


def test_nothing_is_left_of_a_token(sdxl: SDXLBase) -> None:
    before, tokenizer = sdxl.encode_text(PROMPTS), sdxl.pipeline.tokenizer
    names = {name for name, _ in sdxl.pipeline.text_encoder.named_parameters()}
    with sdxl.added_token(TOKEN, random_vectors(2)):
        assert not torch.equal(sdxl.encode_text(PROMPTS)["pooled"][0], before["pooled"][0])
        assert torch.equal(sdxl.encode_text(PROMPTS)["context"][2], before["context"][2])
    after = sdxl.encode_text(PROMPTS)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert sdxl.pipeline.tokenizer is tokenizer
    assert {name for name, _ in sdxl.pipeline.text_encoder.named_parameters()} == names


def test_the_end_token_is_pooled_in_spite_of_sdxls_configuration(sdxl_folder: Path, sdxl: SDXLBase) -> None:
    """SDXL's text_encoder_2 has the wrong `eos_token_id` 2: transformers then pools at the highest id."""
    other, vectors = SDXLBase.open(sdxl_folder), random_vectors(2)
    encoder = next(m for m in other.pipeline.text_encoder_2.modules() if hasattr(m, "eos_token_id"))
    encoder.eos_token_id = 2
    assert torch.equal(other.encode_text(PROMPTS)["pooled"], sdxl.encode_text(PROMPTS)["pooled"])
    with sdxl.added_token(TOKEN, vectors), other.added_token(TOKEN, vectors):
        assert torch.equal(other.encode_text(PROMPTS)["pooled"], sdxl.encode_text(PROMPTS)["pooled"])
    assert encoder.eos_token_id == 2


def test_words_and_vectors_that_are_refused(sdxl: SDXLBase) -> None:
    found, table = sdxl.word_vectors("person"), sdxl.pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(found["clip_l"][0], table[sdxl.pipeline.tokenizer("person").input_ids[1]])
    assert found["clip_g"].shape == (1, 64)
    with pytest.raises(ValueError, match="'two words' is 2 tokens"):
        sdxl.word_vectors("two words")
    one = random_vectors(1)
    for vectors, token, message in (
        ({"clip_l": one["clip_l"]}, TOKEN, "found vectors clip_l, expected clip_l, clip_g"),
        ({**one, "clip_g": torch.zeros(1, 1280)}, TOKEN, r"clip_g has the shape \(1, 1280\), expected \(vectors, 64\)"),
        (one, "person</w>", "in the vocabulary of tokenizer already"),
    ):
        with pytest.raises(ValueError, match=message), sdxl.added_token(token, vectors):
            pass
        assert not hasattr(sdxl.pipeline.text_encoder.get_input_embeddings(), "vectors")
