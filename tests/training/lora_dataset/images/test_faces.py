"""Face measurements: pose, sharpness, and which faces are one person."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import Scene, reference_scene
from training.lora_dataset.config import FacesConfig
from training.lora_dataset.images.faces import (
    assign_duplicates,
    face_side,
    head_pose,
    largest_face,
    open_faces,
    read_array,
    save_array,
    sharpness,
    unit,
)

FACES = FacesConfig("miniature", WEIGHTS / "insightface")


def test_a_provider_that_is_not_installed_is_refused():
    """Onnxruntime itself would warn and use the CPU, whatever a recipe for a GPU costs there."""
    with pytest.raises(
        ValueError, match=r"faces\.provider is Absent, .* has .*CPU.*: for CUDA install onnxruntime-gpu"
    ):
        open_faces(replace(FACES, provider="Absent"))


def drawn_image(index: int, number: int) -> Image.Image:
    """The n-th image of a validation person."""
    return Image.fromarray(draw(person(index), reference_scene(np.random.default_rng([32, index, number]))).image)


def landmarks(yaw: float, pitch: float, roll: float) -> torch.Tensor:
    """A mean head's five points in pixels, rotated by degrees (right, down, clockwise), in parallel projection."""
    points = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.575, 0.55], [-0.4, 1.15, 0], [0.4, 1.15, 0]])
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return torch.from_numpy((points @ (tilt @ nod @ turn).T)[:, :2] * 40 + 100).float()


@pytest.mark.parametrize("roll", [0, -25, 60])
@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (30, 0), (-55, 0), (0, 25), (0, -25), (20, 10)])
def test_the_pose_of_a_mean_head(yaw, pitch, roll):
    found = head_pose(landmarks(yaw, pitch, roll))
    assert found == pytest.approx((yaw, pitch), abs=6 if yaw and pitch else 0.1)


def test_impossible_landmarks_are_an_extreme_pose():
    assert abs(head_pose(torch.zeros(5, 2))[0]) == 90
    assert head_pose(landmarks(0, 0, 0) * torch.tensor([1.0, 0.0]))[1] == 90


def test_yaw_of_drawn_people_has_the_right_sign():
    encoder = open_faces(FACES)
    found = []
    for yaw in (-0.4, 0.0, 0.4):
        image = Image.fromarray(draw(person(6031), Scene(yaw=yaw)).image)
        face = largest_face(encoder, image, "it")
        assert face.landmarks is not None
        found.append(head_pose(face.landmarks)[0])
        assert 60 < face_side(face) < 90
    assert found[0] < -6 < found[1] < 6 < found[2]


def test_an_enlarged_face_is_less_sharp():
    encoder, image = open_faces(FACES), drawn_image(6031, 0)
    whole, half = (largest_face(encoder, each, "it") for each in (image, image.resize((64, 64))))
    assert sharpness(half.crop) < 0.5 * sharpness(whole.crop)
    assert sharpness(torch.full((112, 112, 3), 0.5)) == 0


def test_blocks_decide_like_one_after_another():
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(25, 16)))
    faces = unit(centers[rng.integers(25, size=200)] + 0.15 * rng.normal(size=(200, 16)))
    expected: list[int] = []
    for row, face in enumerate(faces):
        firsts = [i for i in range(row) if expected[i] == i]
        cosines = [float(face @ faces[i]) for i in firsts]
        expected.append(firsts[int(np.argmax(cosines))] if cosines and max(cosines) >= 0.8 else row)
    assert 25 <= len(set(expected)) < 150
    for block in (7, 64, 2048):
        assert [owner for owner, _ in assign_duplicates(faces, 0.8, block)] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No data left"),
        (b"\x93NUMPY\x01\x00", "EOF"),
        (b"PK\x03\x04", ""),
        (b"<html>", "pickled"),
        (np.ones((2, 3), np.float32), r"it holds float32 \(2, 3\), expected finite numbers with 1 axes"),
        (np.ones(3, np.int64), "it holds int64"),
        (np.array([1.0, np.nan]), "it holds float64"),
    ],
    ids=["empty", "cut off", "zip", "page", "axes", "integers", "nan"],
)
def test_damaged_embeddings_are_named_with_what_to_do(tmp_path, content, message):
    path = tmp_path / "ann" / "face.npy"
    save_array(path, np.ones(3, np.float32))
    assert read_array(path, 1).tolist() == [1, 1, 1]
    path.write_bytes(content) if isinstance(content, bytes) else save_array(path, content)
    with pytest.raises(ValueError, match=rf"face\.npy is damaged: .*{message}.*Delete .*ann\.json and run the stage"):
        read_array(path, 1)
