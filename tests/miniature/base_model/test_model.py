"""The base model before training: tokens, vocabulary, noise schedule."""

import pytest
import torch

from miniature.base_model.model import TinySDXL, Tokenizer, expand_vocabulary, noise_scheduler, used_tokens
from miniature.comfyui.host import find_tokenizer
from miniature.measure.judge import ATTRIBUTES
from miniature.world.scenes import Scene, caption

CAPTIONS = ["", caption(Scene()), caption(Scene(expression="laughing", hat="wearing a straw hat"))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(find_tokenizer())


def test_padding_is_that_of_both_sdxl_encoders(tokenizer):
    left, right = tokenizer([""])
    assert left[0].tolist() == [49406, 49407, *[49407] * 75]
    assert right[0].tolist() == [49406, 49407, *[0] * 75]


@pytest.mark.parametrize(("attribute", "words"), ATTRIBUTES.items())
def test_every_word_of_a_caption_is_covered_by_the_used_tokens(tokenizer, attribute, words):
    """Clauses stand between commas, so that the others don't change a clause's tokens."""
    used = set(used_tokens(tokenizer).tolist())
    for word in words:
        text = caption(Scene(**{attribute: word}))
        assert word in text
        assert used.issuperset(torch.cat(tokenizer([text])).unique().tolist()), text


def test_full_vocabulary_computes_the_same(tokenizer):
    torch.manual_seed(0)
    tokens = used_tokens(tokenizer)
    compact = TinySDXL(tokens).eval()
    full = expand_vocabulary(compact, tokens).eval()
    ids = tokenizer(CAPTIONS)
    with torch.no_grad():
        one, other = compact.encode(ids), full.encode(ids)
    assert one.context.shape == (3, 77, 96)
    assert torch.equal(one.context, other.context)
    assert torch.equal(one.pooled, other.pooled)


def test_zero_terminal_snr():
    scheduler = noise_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    noise, clean = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([999])
    torch.testing.assert_close(scheduler.add_noise(clean, noise, last), noise, atol=1e-3, rtol=0)
    torch.testing.assert_close(scheduler.get_velocity(clean, noise, last), -clean, atol=1e-3, rtol=0)
