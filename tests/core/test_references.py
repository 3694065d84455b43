"""Reference images to embeddings, in every form and under both policies, with encoders that are stood in for."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.encoders.face_encoder import EncodedFace, FaceEncoder, NoFaceError
from difflora_core.encoders.image_encoder import BATCH
from difflora_core.images import LONGEST_SIDE, image_list, rgb_array
from difflora_core.references import MAX_COUNTED, encode_references
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import reference_scene


class Faces:
    """A face's embedding is the image's mean color; a black image has none."""

    def __init__(self) -> None:
        self.options: list[tuple[object, ...]] = []

    def find(self, image: np.ndarray, name: str, *options: object) -> EncodedFace:
        self.options.append(options)
        if not image.any():
            raise NoFaceError(f"Found no face in {name}")
        return EncodedFace(torch.from_numpy(image.mean((0, 1)).astype(np.float32)), torch.zeros(1), torch.zeros(1, 5))


class Images:
    """An image's embedding is its size; `batches` are the sizes of its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, images: list[np.ndarray]) -> torch.Tensor:
        self.batches.append(len(images))
        return torch.tensor([image.shape[:2] for image in images], dtype=torch.float32)


def flat(value: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_files_arrays_images_and_tensors_are_one(tmp_path):
    Image.fromarray(flat(51)).save(tmp_path / "a.png")
    sources = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(flat(51)),
        flat(51),
        torch.full((32, 32, 3), 0.2),
    ]
    found = encode_references(sources, Faces(), Images())
    assert found.count == 5
    assert (found.face == 51).all()
    assert found.image.tolist() == [[32, 32]] * 5


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("ann.png", "ann.png"),
        (Path("photos"), "photos"),
        (Image.fromarray(flat(51)), "one Image"),
        (flat(51), "one ndarray"),
        (torch.full((32, 32, 3), 0.2), "one Tensor"),
        (iter([flat(51)]), "one list_iterator"),
        ({"ann.png"}, "one set"),
    ],
    ids=["file", "folder", "PIL", "array", "tensor", "iterator", "set"],
)
def test_an_image_that_is_not_in_a_list_is_refused(image, found):
    with pytest.raises(ValueError, match=rf"reference images are a list, found {found}: pass \[image\]"):
        encode_references(image, Faces(), None)


def test_a_batch_of_tensors_needs_no_image_encoder():
    faces = Faces()
    batch = torch.stack([torch.full((32, 32, 3), value) for value in (0.2, 0.4)])
    found = encode_references(batch, faces, None, choose="left to right", index=2, aligned=True)
    assert found.image is None
    assert found.face[:, 0].tolist() == [51, 102]
    assert faces.options == [("left to right", 2, True)] * 2


def test_without_a_face_encoder_every_readable_image_is_used():
    found = encode_references([flat(0), flat(9)], None, Images())
    assert found.face is None
    assert found.count == len(found.image) == 2


def test_by_default_an_unusable_image_is_an_error_that_names_it(tmp_path):
    with pytest.raises(NoFaceError, match="image 2 of 3"):
        encode_references([flat(9), flat(0), flat(9)], Faces(), Images())
    with pytest.raises(ValueError, match=r"gone\.png is not there"):
        encode_references([flat(9), tmp_path / "gone.png"], Faces(), None)


class ManyFaces(Faces):
    """An image has as many faces as its side has times 32 pixels; a black image has none."""

    def find(self, image: np.ndarray, name: str, *options: object) -> EncodedFace:
        found, faces = super().find(image, name, *options), len(image) // 32
        if faces <= options[1]:  # type: ignore[operator]
            raise NoFaceError(f"no number {options[1]} in {name}.")
        return replace(found, boxes=torch.zeros(faces, 5))


def test_a_face_that_an_image_lacks_is_told_with_the_faces_of_all_images(tmp_path):
    sources = [flat(9, 96), flat(9), flat(0), tmp_path / "gone.png", flat(9, 64)]
    with pytest.raises(NoFaceError) as error:
        encode_references(sources, ManyFaces(), None, index=1)
    assert str(error.value) == (
        "no number 1 in image 2 of 5. Faces in each image: image 1 of 5: 3, image 2 of 5: 1, image 3 of 5: 0, "
        f"{tmp_path / 'gone.png'}: unreadable, image 5 of 5: 2."
    )
    with pytest.raises(NoFaceError, match=r"^no number 1 in image 1 of 1\.$"):
        encode_references([flat(9)], ManyFaces(), None, index=1)
    with pytest.raises(NoFaceError, match=r"^no number 1 in image 1 of 2\.$"):
        encode_references([flat(9), flat(9)], ManyFaces(), None, index=1, aligned=True)
    with pytest.raises(NoFaceError, match=rf"image {MAX_COUNTED} of 30: 1, and {30 - MAX_COUNTED} more images\.$"):
        encode_references([flat(9)] * 30, ManyFaces(), None, index=1)


def test_another_policy_is_refused():
    with pytest.raises(ValueError, match="'raise' or 'skip', found 'ignore'"):
        encode_references([flat(9)], Faces(), None, unusable="ignore")


def test_unusable_images_are_skipped_and_reported(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    outcomes = []
    found = encode_references(
        [flat(0), flat(9), tmp_path / "broken.jpg", flat(7, 40)],
        Faces(),
        Images(),
        unusable="skip",
        on_image=outcomes.append,
    )
    assert found.count == 2
    assert found.face[:, 0].tolist() == [9, 7]
    assert found.image[:, 0].tolist() == [32, 40]
    assert [outcome.error is None for outcome in outcomes] == [False, True, False, True]
    assert [outcome.face is None for outcome in outcomes] == [True, False, True, False]
    assert isinstance(outcomes[0].error, NoFaceError)
    assert outcomes[2].name.endswith("broken.jpg")
    assert "is no image" in str(outcomes[2].error)


def test_no_more_than_a_batch_is_in_memory():
    images = Images()
    sources = [flat(1 + number % 250) for number in range(2 * BATCH + 3)]
    sources[5] = flat(0)
    found = encode_references(sources, Faces(), images, unusable="skip")
    assert images.batches == [BATCH - 1, BATCH, 3]
    assert found.face[:, 0].tolist() == [image[0, 0, 0] for image in sources if image.any()]


def test_a_huge_image_is_made_smaller_as_in_a_batch():
    image = np.random.default_rng(0).integers(0, 256, (2 * LONGEST_SIDE + 77, 800, 3), dtype=np.uint8)
    seen: list[np.ndarray] = []
    faces = Faces()
    find = faces.find
    faces.find = lambda array, *rest: (seen.append(array), find(array, *rest))[1]  # type: ignore[method-assign]
    encode_references([image], faces, None)
    (batched,) = image_list(torch.from_numpy(image).float()[None] / 255.0)
    assert seen[0].shape[0] == LONGEST_SIDE
    assert np.array_equal(seen[0], rgb_array(batched, "batched"))


def test_without_a_usable_image_there_is_nothing_to_encode():
    with pytest.raises(ValueError, match="none of the 2 images can be used; the first: Found no face in image 1 of 2"):
        encode_references([flat(0), flat(0)], Faces(), None, unusable="skip")
    with pytest.raises(ValueError, match="At least one reference image"):
        encode_references([], Faces(), None)


def test_a_list_of_images_and_batches_of_any_sizes_is_one_person():
    tall, wide = torch.full((1, 48, 20, 3), 0.2), torch.full((2, 20, 48, 3), 0.4)
    outcomes = []
    found = encode_references([tall, wide, flat(7)], Faces(), Images(), on_image=outcomes.append)
    assert found.count == 4
    assert found.image.tolist() == [[48, 20], [20, 48], [20, 48], [32, 32]]
    assert [outcome.name for outcome in outcomes] == [f"image {number} of 4" for number in (1, 2, 3, 4)]


def colored(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


def test_who_looks_like_somebody_else_is_named_and_used(caplog):
    found = encode_references([colored(200, 9, 9), colored(0, 200, 0), colored(210, 0, 9)], Faces(), None)
    assert found.count == 3
    (remark,) = found.remarks
    assert remark.startswith("image 2 of 3 looks like somebody else: its face has a mean cosine of 0.0")
    assert caplog.messages == [remark]


def test_three_people_are_no_person():
    found = encode_references([colored(200, 0, 0), colored(0, 200, 0), colored(0, 0, 200)], Faces(), None)
    assert "no two of the 3 images look like one person (mean cosines of their faces 0.00 to 0.00" in found.remarks[0]


def test_one_person_needs_no_remark(caplog):
    assert encode_references([flat(9), flat(70), flat(200)], Faces(), None).remarks == ()
    assert encode_references([flat(9)], None, Images()).remarks == ()
    assert not caplog.messages


class TurnedFaces(Faces):
    """Faces are upright after some quarter turns."""

    turns = 1

    def find(self, image: np.ndarray, name: str, *options: object) -> EncodedFace:
        return replace(super().find(image, name, *options), quarter_turns=self.turns)


@pytest.mark.parametrize(
    ("turns", "named", "shape"),
    [(1, "90° counterclockwise", [48, 32]), (2, "180°", [32, 48]), (3, "90° clockwise", [48, 32])],
)
def test_a_turned_image_is_named_and_turned_for_the_image_encoder(monkeypatch, turns, named, shape):
    monkeypatch.setattr(TurnedFaces, "turns", turns)
    image = np.full((32, 48, 3), 90, np.uint8)
    found = encode_references([image], TurnedFaces(), Images())
    assert found.image.tolist() == [shape]
    assert found.remarks == (f"image 1 of 1 was turned by {named}, so that its face is upright",)


def test_a_photograph_that_is_said_to_be_aligned_is_named():
    image = draw(person(split_people("validation")[0]), reference_scene(np.random.default_rng(0))).image
    encoder = FaceEncoder.open("miniature", WEIGHTS / "insightface")
    crop = encoder.find(image).crop
    (remark,) = encode_references([crop, image], encoder, None, aligned=True).remarks
    assert re.match(r"image 2 of 2 is no aligned face: .* by up to \d+% of its side; switch `aligned` off", remark)
    assert encode_references([image, image], encoder, None).remarks == ()


def test_an_intruder_among_a_drawn_persons_images_is_named():
    """With the miniature's real detector and recognizer."""
    rng = np.random.default_rng(0)
    ann, bob = (person(number) for number in split_people("validation")[:2])
    images = [draw(who, reference_scene(rng)).image for who in (ann, ann, bob, ann)]
    encoder = FaceEncoder.open("miniature", WEIGHTS / "insightface")
    (remark,) = encode_references(images, encoder, None).remarks
    assert remark.startswith("image 3 of 4 looks like somebody else")
    assert encode_references([images[0], images[1], images[3]], encoder, None).remarks == ()
