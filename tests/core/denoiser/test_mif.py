"""Mixed image features: modes, weights, and the average of several references."""

from typing import get_args

import pytest
import torch

from difflora_core.denoiser.config import MIFConfig, Mode
from difflora_core.denoiser.mif import MIF, mean_embedding


@pytest.fixture
def mif() -> MIF:
    torch.manual_seed(0)
    return MIF(MIFConfig(face_width=6, image_width=5, width=10))


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


@pytest.mark.parametrize(
    ("trained", "fitting"),
    [("gate", {"gate", "mean", "face", "image"}), ("mean", {"mean", "face", "image"}), ("face", {"face"})],
)
def test_modes_that_need_untrained_layers_are_refused(trained, fitting):
    mif, face, image = MIF(MIFConfig(6, 5, 10, mode=trained)), torch.randn(2, 6), torch.randn(2, 5)
    for mode in get_args(Mode):
        if mode in fitting:
            mif(face, image, mode)
        else:
            with pytest.raises(ValueError, match=f"mode '{mode}' needs layers .* choose mode '{trained}'"):
                mif(face, image, mode)
    if trained == "mean":
        assert mif(face, image, "gate", 0.5)[1].tolist() == [[0.5, 0.5]] * 2


def test_an_unknown_mode_is_refused(mif):
    with pytest.raises(ValueError, match="modes are gate, mean, face, image, found 'Face'"):
        mif(torch.randn(2, 6), torch.randn(2, 5), "Face")


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
    with pytest.raises(ValueError, match="at least one reference image"):
        mean_embedding(wrong)


def test_a_broken_reference_is_named():
    embeddings = torch.ones(1000, 4)
    embeddings[7, 2] = torch.inf
    with pytest.raises(ValueError, match="reference image 8 of 1000"):
        mean_embedding(embeddings)


def test_an_embedding_of_zeros_is_named():
    with pytest.raises(ValueError, match="reference image 2 of 3 is zero throughout"):
        mean_embedding(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
