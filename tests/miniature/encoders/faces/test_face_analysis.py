"""The drawn world's face models through the real insightface package, on validation people only."""

import cv2
import numpy as np
import pytest
from insightface.utils import face_align

from miniature.encoders.faces.face_analysis import ROOT, load_face_analysis
from miniature.world.drawing import draw_empty
from miniature.world.scenes import random_scene


@pytest.fixture(scope="module", params=["miniature", "measuring"])
def analysis(request):
    return load_face_analysis(request.param)


def faces_in(analysis, rgb: np.ndarray) -> list:
    return analysis.get(np.ascontiguousarray(rgb[..., ::-1]))


def test_insightface_takes_the_files_for_what_they_are(analysis):
    assert set(analysis.models) == {"detection", "recognition"}
    assert analysis.det_model.use_kps
    assert analysis.det_model.static_input_size is None
    recognizer = analysis.models["recognition"]
    assert recognizer.input_size == (112, 112)
    assert (recognizer.input_mean, recognizer.input_std) == (127.5, 127.5)
    assert recognizer.output_shape[-1] == 512


def test_portraits_have_one_face_at_its_place(analysis, portraits):
    for drawing in (drawing for pair in portraits for drawing in pair):
        faces = faces_in(analysis, drawing.image)
        assert len(faces) == 1
        assert np.abs(faces[0].kps - drawing.landmarks).mean() < 3.0
        assert np.abs(faces[0].bbox - drawing.box).mean() < 6.0


@pytest.mark.parametrize("size", [(128, 128), (640, 640)])
def test_each_detection_size_finds_portraits_alone(analysis, portraits, size):
    found = [analysis.det_model.detect(pair[0].image[..., ::-1], input_size=size)[0] for pair in portraits]
    assert [len(boxes) for boxes in found] == [1] * len(portraits)


def test_no_face_without_a_person(analysis):
    rng = np.random.default_rng(2)
    empty = [draw_empty(random_scene(rng)) for _ in range(6)]
    empty += [np.zeros((128, 128, 3), np.uint8), np.full((200, 120, 3), 255, np.uint8)]
    empty.append(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
    assert [len(faces_in(analysis, image)) for image in empty] == [0] * len(empty)


def test_two_people_are_two_faces(analysis, portraits):
    for (left, _), (right, _) in zip(portraits[::2], portraits[1::2], strict=True):
        wide = np.concatenate([left.image, right.image], axis=1)  # (128, 256, 3)
        faces = sorted(faces_in(analysis, wide), key=lambda face: face.bbox[0])
        assert len(faces) == 2
        assert np.abs(faces[0].kps - left.landmarks).mean() < 5.0
        assert np.abs(faces[1].kps - (right.landmarks + np.array([128, 0]))).mean() < 5.0


def test_two_small_people_are_two_faces(analysis, portraits):
    for (left, _), (right, _) in zip(portraits[::2], portraits[1::2], strict=True):
        square = np.zeros((128, 128, 3), np.uint8)
        for column, drawing in enumerate((left, right)):
            square[32:96, 64 * column : 64 * column + 64] = cv2.resize(
                drawing.image, (64, 64), interpolation=cv2.INTER_AREA
            )
        assert len(faces_in(analysis, square)) == 2


def test_blurred_and_noisy_portraits_are_found(analysis, portraits):
    rng = np.random.default_rng(3)
    for drawing in (pair[1] for pair in portraits):
        blurred = cv2.GaussianBlur(drawing.image, (0, 0), 1.4).astype(np.float32)
        noisy = np.clip(blurred + rng.normal(0, 4, blurred.shape), 0, 255).astype(np.uint8)
        assert len(faces_in(analysis, noisy)) == 1


def test_a_person_resembles_oneself_most(analysis, portraits):
    embeddings = np.array(
        [[faces_in(analysis, drawing.image)[0].normed_embedding for drawing in pair] for pair in portraits]
    )
    cosine = embeddings[:, 0] @ embeddings[:, 1].T  # (people, people)
    assert (cosine.argmax(1) == np.arange(len(portraits))).all()
    assert np.diag(cosine).mean() > 0.75
    assert cosine[~np.eye(len(portraits), dtype=bool)].mean() < 0.4


def test_judge_and_condition_are_different_networks(portraits):
    crop = face_align.norm_crop(portraits[0][0].image[..., ::-1], portraits[0][0].landmarks)
    first, second = (
        load_face_analysis(name).models["recognition"].get_feat(crop)[0] for name in ("miniature", "measuring")
    )
    assert abs(np.dot(first, second)) < 0.4 * np.linalg.norm(first) * np.linalg.norm(second)


def test_missing_folder_names_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m miniature build"):
        load_face_analysis("nobody", root=tmp_path)
    assert (ROOT / "models" / "miniature").is_dir()
