"""MIF and DiT: modes, shapes, sizes, and the starts that training relies on."""

import pytest
import torch

from difflora_core.denoiser.dit import PAPER, DiT, DiTConfig
from difflora_core.denoiser.mif import MIF, MIFConfig, mean_embedding

SMALL = DiTConfig(tokens=3, latent_width=4, width=22, layers=2, heads=3, head_width=8, condition_width=10)


@pytest.fixture
def mif() -> MIF:
    torch.manual_seed(0)
    return MIF(MIFConfig(face_width=6, image_width=5, width=10))


def test_the_papers_denoiser_has_16_layers_of_width_1454():
    with torch.device("meta"):
        network = DiT(PAPER)
    assert len(network.blocks) == 16
    assert network.position.shape[-1] == 1454
    assert 1454 % PAPER.head_width != 0  # the head width is independent of the width
    w, inner, hidden = 1454, 23 * 64, int(1454 * 4.0)
    attention = (w + 1) * 3 * inner + 2 * 64 + (inner + 1) * w
    block = attention + (w + 1) * hidden + (hidden + 1) * w + (w + 1) * 6 * w
    ends = (128 + 1) * w + 160 * w + (256 + 1) * w + (w + 1) * w + (w + 1) * w + (w + 1) * 2 * w + (w + 1) * 128
    assert sum(p.numel() for p in network.parameters()) == 16 * block + ends


def test_an_untrained_denoiser_predicts_the_average_person():
    network = DiT(SMALL)
    out = network(torch.randn(2, 3, 4), torch.tensor([5, 900]), torch.randn(2, 10))
    assert torch.equal(out, torch.zeros(2, 3, 4))


def test_output_depends_on_time_condition_and_position():
    torch.manual_seed(0)
    network = DiT(SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, c = torch.randn(1, 3, 4).expand(2, -1, -1), torch.randn(1, 10).expand(2, -1)
    early_late = network(x, torch.tensor([1, 900]), c)
    assert not torch.allclose(early_late[0], early_late[1])
    other = network(x, torch.tensor([1, 1]), torch.cat([c[:1], -c[:1]]))
    assert not torch.allclose(other[0], other[1])
    same_tokens = network(torch.ones(1, 3, 4), torch.tensor([1]), c[:1])
    assert not torch.allclose(same_tokens[0, 0], same_tokens[0, 1])


def test_wrong_latents_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(batch, 3, 4\), found \(1, 4, 3\)"):
        DiT(SMALL)(torch.zeros(1, 4, 3), torch.tensor([0]), torch.zeros(1, 10))


def test_gate_weights_are_a_share_and_mix_the_experts(mif):
    face, image = torch.randn(4, 6), torch.randn(4, 5)
    condition, weights = mif(face, image)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    expected = weights[:, :1] * mif.face(face) + weights[:, 1:] * mif.image(image)
    torch.testing.assert_close(condition, expected)


def test_modes(mif):
    face, image = torch.randn(2, 6), torch.randn(2, 5)
    assert torch.equal(mif(face, image, "face")[0], mif.face(face))
    assert torch.equal(mif(face, image, "image")[0], mif.image(image))
    torch.testing.assert_close(mif(face, image, "mean")[0], 0.5 * (mif.face(face) + mif.image(image)))
    assert mif(face, None, "gate")[1].tolist() == [[1.0, 0.0]] * 2


def test_a_share_overrules_the_gate(mif):
    face, image = torch.randn(2, 6), torch.randn(2, 5)
    condition, weights = mif(face, image, image_share=0.25)
    torch.testing.assert_close(condition, 0.75 * mif.face(face) + 0.25 * mif.image(image))
    assert weights.tolist() == [[0.75, 0.25]] * 2
    with pytest.raises(ValueError, match=r"between 0 and 1, found 1\.5"):
        mif(face, image, image_share=1.5)


def test_missing_and_foreign_embeddings_are_refused(mif):
    with pytest.raises(ValueError, match="needs a face embedding"):
        mif(None, torch.randn(1, 5), "face")
    with pytest.raises(ValueError, match="needs an image embedding"):
        mif(torch.randn(1, 6), None, "image")
    with pytest.raises(ValueError, match="width 7, this model was trained with 6"):
        mif(torch.randn(1, 7), None)


def test_references_are_averaged_by_direction():
    embeddings = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(mean_embedding(embeddings), torch.full((1, 2), 0.5**0.5))


@pytest.mark.parametrize("wrong", [torch.zeros(0, 4), torch.zeros(4)])
def test_no_reference_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one reference picture"):
        mean_embedding(wrong)


def test_a_broken_reference_is_named():
    embeddings = torch.ones(1000, 4)
    embeddings[7, 2] = torch.inf
    with pytest.raises(ValueError, match="reference picture 8 of 1000"):
        mean_embedding(embeddings)


def test_an_embedding_of_zeros_is_named():
    with pytest.raises(ValueError, match="reference picture 2 of 3 is zero throughout"):
        mean_embedding(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
