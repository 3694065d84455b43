"""The frozen encoders on real models: the miniature's face pack in the real InsightFace."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.encoders import BATCH, FaceEncoder, ImageEncoder, NoFaceError, providers_for
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person, reference_scene


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    torch.set_num_threads(1)
    return FaceEncoder.open("miniature", WEIGHTS / "insightface")


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    """Person 6001 on the left and small, 6002 on the right and large: uint8 (170, 300, 3)."""
    rng = np.random.default_rng(1)
    picture = Image.new("RGB", (300, 170), (200, 205, 210))
    picture.paste(Image.fromarray(draw(person(6001), reference_scene(rng), size=112).image), (5, 30))
    picture.paste(Image.fromarray(draw(person(6002), reference_scene(rng), size=160).image), (130, 5))
    return np.asarray(picture)


def as_images(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255.0


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_every_way_of_choosing(encoder, group):
    images = as_images(group)
    largest, left, second_left, surest = (
        next(encoder.pictures(images, choose=choose, index=index))
        for choose, index in (("largest", 0), ("left to right", 0), ("left to right", 1), ("highest score", 0))
    )
    assert len(largest.boxes) == 2
    assert largest.boxes[largest.chosen, 0] > 120 > left.boxes[left.chosen, 0]
    assert torch.equal(second_left.embedding, largest.embedding)
    assert surest.chosen == int(surest.boxes[:, 4].argmax())


def test_an_aligned_crop_is_taken_as_it_is(encoder, group):
    found = next(encoder.pictures(as_images(group)))
    again = next(encoder.pictures(found.crop[None], aligned=True))
    assert cosine(again.embedding, found.embedding) > 0.999
    assert torch.equal(again.crop, found.crop)
    larger = torch.nn.functional.interpolate(found.crop.permute(2, 0, 1)[None], scale_factor=4, mode="bilinear")
    assert cosine(next(encoder.pictures(larger.permute(0, 2, 3, 1), aligned=True)).embedding, found.embedding) > 0.98


def test_alpha_is_left_out(encoder, group):
    images = as_images(group)
    with_alpha = torch.cat([images, torch.rand(*images.shape[:3], 1)], dim=-1)
    assert torch.equal(next(encoder.pictures(with_alpha)).embedding, next(encoder.pictures(images)).embedding)


def test_a_picture_without_the_asked_for_face_is_named(encoder, group):
    nobody = draw_empty(reference_scene(np.random.default_rng(2)))
    someone = draw(person(6001), reference_scene(np.random.default_rng(3))).image
    with pytest.raises(NoFaceError, match="no face in picture 2 of 2"):
        list(encoder.pictures(as_images(someone, nobody)))
    with pytest.raises(NoFaceError, match="2 faces, no number 5 in picture 1 of 1"):
        list(encoder.pictures(as_images(group), index=5))
    with pytest.raises(NoFaceError, match="1 × 1 pixels"):
        list(encoder.pictures(torch.zeros(1, 1, 1, 3)))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3), (1, 8, 8, 2)])
def test_what_is_no_batch_of_pictures_is_refused(encoder, shape):
    with pytest.raises(ValueError, match="at least one picture"):
        list(encoder.pictures(torch.zeros(shape)))


def test_nan_is_refused(encoder, group):
    images = as_images(group)
    images[0, 3, 3, 0] = torch.nan
    with pytest.raises(ValueError, match="picture 1 of 1 holds NaN"):
        list(encoder.pictures(images))


class Tower(torch.nn.Module):
    """Stands for a CLIP vision model: a picture's embedding is its mean color; `rows` are the batches it saw."""

    config = SimpleNamespace(image_size=4)
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.rows.append(len(pixel_values))
        return SimpleNamespace(image_embeds=pixel_values.mean((2, 3)))


def test_a_thousand_pictures_are_encoded_in_chunks_and_in_order():
    tower = Tower()
    pictures = [np.full((4, 4, 3), number % 256, dtype=np.uint8) for number in range(1000)]
    embeddings = ImageEncoder(tower, (0, 0, 0), (1, 1, 1)).encode(pictures)
    assert max(tower.rows) == BATCH
    torch.testing.assert_close(embeddings[:, 0], (torch.arange(1000) % 256) / 255.0)


def test_faces_are_found_on_the_cpu_where_there_is_no_gpu_runtime(monkeypatch):
    runtime = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert providers_for(torch.device("cpu")) == ["CPUExecutionProvider"]
    assert providers_for(torch.device("cuda")) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    runtime.get_available_providers = lambda: ["CPUExecutionProvider"]
    assert providers_for(torch.device("cuda")) == ["CPUExecutionProvider"]
