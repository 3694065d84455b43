"""Reference images: those most typical of a person, cropped around the face."""

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.lora_dataset.images import reference_crops
from training.lora_dataset.images.reference_crops import choose_references, crop_face

WHO = 6000  # a validation person


def drawn(number: int) -> np.ndarray:
    """A reference image of the person: uint8 (128, 128, 3)."""
    return draw(person(WHO), reference_scene(np.random.default_rng(number))).image


def test_references_are_the_images_nearest_to_the_person(faces: FaceEncoder, tmp_path: Path) -> None:
    stranger = draw(person(WHO + 1), reference_scene(np.random.default_rng(0))).image
    blank = np.zeros((128, 128, 3), dtype=np.uint8)
    paths = []
    for number, pixels in enumerate((blank, stranger, drawn(0), drawn(1))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    mean = faces.encode([drawn(2), drawn(3)]).mean(0)
    chosen = choose_references(paths, faces, mean, 2)
    assert sorted(path.name for path, _ in chosen) == ["2.png", "3.png"]


def test_no_face_at_all_is_an_error(faces: FaceEncoder, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    with pytest.raises(NoFaceError, match="none of the 1 collected images"):
        choose_references([tmp_path / "a.png"], faces, torch.ones(512), 2)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((40, 30, 60, 50), (21, 59), (31, 69)),  # 38 pixels around (50, 40)
        ((0, 0, 20, 20), (0, 38), (0, 38)),  # moved into the image
        ((10, 0, 90, 80), (0, 80), (10, 90)),  # no larger than the image
    ],
)
def test_crop_is_a_square_around_the_face(
    box: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(100.0), indexing="ij")
    crop = crop_face(torch.stack([y, x, x]), box)
    assert (crop[0, 0, 0], crop[0, -1, -1] + 1) == rows
    assert (crop[1, 0, 0], crop[1, -1, -1] + 1) == columns


def test_no_photo_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of a photo holds all of it, and many large ones take gigabytes."""
    views: list[weakref.ref] = []

    class Faces:
        """Stands for `FaceEncoder`: each face is more like the person than the one before."""

        def find(self, pixels: np.ndarray, name: str) -> Any:
            embedding = torch.tensor([1.0, 1.0 / (1 + len(views))])
            return SimpleNamespace(embedding=embedding, boxes=torch.tensor([[30.0, 30.0, 50.0, 50.0, 1.0]]), chosen=0)

    def crop(image: torch.Tensor, box: Any) -> torch.Tensor:
        assert not [view for view in views if view() is not None]
        made = crop_face(image, box)
        views.append(weakref.ref(made))
        return made

    monkeypatch.setattr(reference_crops, "crop_face", crop)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.new("RGB", (400, 300), "gray").save(path)
    chosen = choose_references(paths, Faces(), torch.tensor([1.0, 0.0]), 2)
    assert [path.name for path, _ in chosen] == ["5.png", "4.png"]
    assert torch.equal(chosen[0][1], torch.full((3, 38, 38), 128 / 255))
