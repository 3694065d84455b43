"""Face Sim, copy-paste and diversity by the miniature's measuring recognizer, against direct computations."""

import shutil

import numpy as np
import pytest
import torch

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw_references
from training.evaluation.metrics.faces.face_diversity import FaceDiversity, mean_distance
from training.evaluation.metrics.faces.face_search import FaceSearch
from training.evaluation.metrics.faces.face_similarity import FaceSimilarity
from training.evaluation.metrics.metric import PersonSample

ROOT = WEIGHTS / "insightface"
NO_FACE = np.full((128, 128, 3), 90, np.uint8)


def drawn(person, count, seed=0):
    return draw_references(person, np.random.default_rng([seed, person]), count)


GENERATED, REFERENCES, OTHERS = drawn(6031, 3), drawn(6032, 2), drawn(6032, 3, seed=1)


def sample(images, references=REFERENCES, others=OTHERS):
    return PersonSample(images, ["a person"] * len(images), references, others)


@pytest.fixture(scope="module")
def search():
    return FaceSearch.open("measuring", ROOT, conditioning=["miniature"])


@pytest.fixture(scope="module")
def embeddings():
    """Of generated images, references and others: unit-length rows straight from the encoder."""
    encoder = FaceEncoder.open("measuring", ROOT)
    rows = [encoder.encode(images).double().numpy() for images in (GENERATED, REFERENCES, OTHERS)]
    return [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows]


@pytest.mark.parametrize(("kind", "number"), [("references", 1), ("other images", 2)])
def test_face_sim_is_the_mean_cosine_of_all_pairs(search, embeddings, kind, number):
    scores = FaceSimilarity(search).score(sample(GENERATED))
    expected = [np.mean([row @ real for real in embeddings[number]]) for row in embeddings[0]]
    assert scores[f"Face Sim, {kind}"] == pytest.approx(expected, abs=1e-6)
    assert scores[f"Face Sim, {kind}, 0 without a face"] == pytest.approx(expected, abs=1e-6)


def test_copy_paste_is_the_normalized_difference_of_angles(search, embeddings):
    generated, references, others = embeddings

    def angle(first, second):
        return np.mean([np.arccos(one @ two) for one in first for two in second])

    expected = [
        (angle(row[None], others) - angle(row[None], references)) / angle(others, references) for row in generated
    ]
    assert FaceSimilarity(search).score(sample(GENERATED))["copy-paste"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("images", "expected"), [(REFERENCES[:1], 1.0), (OTHERS[:1], -1.0)])
def test_a_copied_image_has_copy_paste_of_one(search, images, expected):
    scores = FaceSimilarity(search).score(sample(images, REFERENCES[:1], OTHERS[:1]))
    assert scores["copy-paste"] == pytest.approx([expected], abs=1e-3)


def test_an_image_without_a_face_is_counted_and_scored_zero_in_a_second_column(search):
    whole, part = (FaceSimilarity(search).score(sample(images)) for images in ([*GENERATED, NO_FACE], GENERATED))
    for kind in ("references", "other images"):
        assert np.array_equal(whole[f"Face Sim, {kind}"], [*part[f"Face Sim, {kind}"], np.nan], equal_nan=True)
        assert whole[f"Face Sim, {kind}, 0 without a face"][-1] == 0.0
    assert list(whole["faces found"]) == [1, 1, 1, 0]
    assert np.isnan(whole["copy-paste"][-1])


def test_images_without_any_face_have_values(search):
    scores = FaceSimilarity(search).score(sample([NO_FACE, NO_FACE]))
    assert np.isnan(scores["Face Sim, references"]).all()
    assert not scores["Face Sim, references, 0 without a face"].any()
    assert np.isnan(FaceDiversity(search).score(sample([NO_FACE]))["face diversity"]).all()


def test_without_other_images_their_columns_are_nan(search):
    scores = FaceSimilarity(search).score(sample(GENERATED, others=()))
    for name in ("Face Sim, other images", "Face Sim, other images, 0 without a face", "copy-paste"):
        assert np.isnan(scores[name]).all()


def test_references_without_a_face_are_refused(search):
    with pytest.raises(NoFaceError, match="any of the 1 reference images"):
        FaceSimilarity(search).score(sample(GENERATED, [NO_FACE]))


def test_columns_are_those_of_the_scores(search):
    for metric in (FaceSimilarity(search), FaceDiversity(search)):
        assert list(metric.columns) == list(metric.score(sample(GENERATED)))
        assert "measuring" in metric.description.model


def test_the_padded_image_is_tried_where_no_face_is_found():
    class OnlyLarge:
        """Finds a face only in images of more than 128 pixels a side."""

        name = "only large"

        def find(self, image):
            if min(image.shape[:2]) <= 128:
                raise NoFaceError("none")
            assert image.shape == (192, 192, 3)
            assert np.array_equal(image[32:160, 32:160], GENERATED[0])
            assert not image[:32].any()
            return type("Face", (), {"embedding": torch.tensor([3.0, 4.0])})()

    found = FaceSearch(OnlyLarge())(GENERATED[:1])
    assert found.embeddings.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert found.found.tolist() == [True]
    assert found.padded.tolist() == [True]


def test_diversity_is_the_mean_distance_of_pairs(search, embeddings):
    rows = embeddings[0]
    expected = np.mean([1 - rows[i] @ rows[j] for i, j in ((0, 1), (0, 2), (1, 2))])
    assert FaceDiversity(search).score(sample(GENERATED))["face diversity"] == pytest.approx([expected], abs=1e-6)


def test_known_distances():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert mean_distance(opposite) == pytest.approx(2.0)
    assert mean_distance(opposite[:1].expand(5, 2)) == pytest.approx(0.0)
    assert np.isnan(mean_distance(opposite[:1]))


def test_the_pack_of_conditioning_is_refused():
    with pytest.raises(ValueError, match="measuring has the recognizer of measuring"):
        FaceSearch.open("measuring", ROOT, conditioning=["miniature", "measuring"])


def test_a_copy_of_the_recognizer_of_conditioning_is_refused(tmp_path):
    for name, recognizer in (("neutral", "same.onnx"), ("seen", "recognizer.onnx")):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "models" / "measuring" / "detector.onnx", folder)
        shutil.copy(ROOT / "models" / "measuring" / "recognizer.onnx", folder / recognizer)
    with pytest.raises(ValueError, match="neutral has the recognizer of seen"):
        FaceSearch.open("neutral", tmp_path, conditioning=["seen"])


def test_a_shared_detector_is_no_objection(tmp_path):
    shutil.copytree(ROOT / "models", tmp_path / "models")
    shutil.copy(ROOT / "models" / "miniature" / "detector.onnx", tmp_path / "models" / "measuring" / "detector.onnx")
    assert FaceSearch.open("measuring", tmp_path, conditioning=["miniature"]).encoder.name == "measuring"


def test_a_missing_pack_is_named():
    with pytest.raises(FileNotFoundError, match=r"No face models .*absent"):
        FaceSearch.open("absent", ROOT)
