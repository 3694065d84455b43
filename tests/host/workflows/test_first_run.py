"""Every example workflow, unchanged, on a fresh base folder with the example images alone: right at the first run."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.comfyui.workflows import FOLDER, OTHER_PERSON, REFERENCES, WORKFLOWS
from miniature.demo.serve import example_images
from miniature.measure.metrics import face_similarity
from training.comfyui_client import Client

ALIKE = 0.3
"""Cosine of two images of one person, at least; of different people it is near 0."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder as it is the first time, with the example images."""
    base = prepare_base(tmp_path_factory.mktemp("fresh"))
    example_images(base / "input")
    return base


@pytest.fixture(scope="module")
def first_client(fresh: Path) -> Iterator[Client]:
    with Host(fresh) as host:
        yield Client(host.url)


def first_run(client: Client, name: str) -> Image.Image:
    """Run a workflow as it is and return what it saves."""
    graph = ApiPrompt.load(FOLDER / f"{name}.json", client.object_info())
    (image,) = client.images(client.run(graph.prompt), graph.id("Save Image"))
    return image


def likeness(fresh: Path, image: Image.Image, reference: str) -> float:
    """Cosine of an image and an example image."""
    return float(face_similarity([image], [Image.open(fresh / "input" / reference)])[0])


def pixel_distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the pixels of two images, of 255."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not name.startswith(("3", "4", "5", "9"))])
def test_shows_the_person(first_client: Client, fresh: Path, name: str) -> None:
    """Among them the workflow that loads the LoRA which it has saved before."""
    image = first_run(first_client, name)
    assert image.size == (128, 128)
    assert likeness(fresh, image, REFERENCES[0]) > ALIKE


@pytest.mark.parametrize(
    ("name", "columns", "rows"), [("3-With-and-without-side-by-side", 2, 1), ("4-Strengths-side-by-side", 3, 2)]
)
def test_images_side_by_side_differ(first_client: Client, fresh: Path, name: str, columns: int, rows: int) -> None:
    grid = first_run(first_client, name)
    width, height = grid.width // columns, grid.height // rows
    cells = [
        grid.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
        for y in range(rows)
        for x in range(columns)
    ]
    for a, b in pairwise(cells):
        assert pixel_distance(a, b) > 1
    without, *with_lora = (likeness(fresh, cell, REFERENCES[0]) for cell in cells)
    assert max(with_lora) > max(ALIKE, without + 0.1)


def test_two_people_are_each_in_their_half(first_client: Client, fresh: Path) -> None:
    image = first_run(first_client, "9-Two-people-in-one-picture")
    for left, who in ((0, REFERENCES[0]), (128, OTHER_PERSON)):
        assert likeness(fresh, image.crop((left, 0, left + 128, 128)), who) > ALIKE


def test_blend_is_of_two_people(first_client: Client, fresh: Path) -> None:
    """Near its ends it looks like the two; halfway its pixels are nearer to both than these are to one another.

    Halfway is a face of its own, which the recognizer need not find like either.
    """
    graph = ApiPrompt.load(FOLDER / "5-Blend-of-two-people.json", first_client.object_info())
    images = []
    for amount in (0.0, 0.25, None, 0.75, 1.0):
        changed = graph.copy() if amount is None else graph.copy().set("Your blend", amount=amount)
        images += first_client.images(first_client.run(changed.prompt), changed.id("Save Image"))
    mine, near_mine, blended, near_other, other = images
    for image in (mine, near_mine):
        assert likeness(fresh, image, REFERENCES[0]) > ALIKE > likeness(fresh, image, OTHER_PERSON)
    for image in (other, near_other):
        assert likeness(fresh, image, OTHER_PERSON) > ALIKE > likeness(fresh, image, REFERENCES[0])
    for end in (mine, other):
        assert 1 < pixel_distance(blended, end) < 0.9 * pixel_distance(mine, other)
