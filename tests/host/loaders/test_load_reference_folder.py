"""Load Reference Images from Folder on a real ComfyUI."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client, PromptError

SIZES = {"a.png": (128, 128), "b.jpg": (176, 128), "c.webp": (128, 208)}


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    """Images of one person of several sizes, and what is no image."""
    folder, rng = base / "input" / "person" / "one", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, size in SIZES.items():
        image = Image.new("RGB", size, (200, 205, 210))
        image.paste(Image.fromarray(draw(person(7000), reference_scene(rng)).image))
        image.save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden").write_text("hidden")
    return folder


def from_folder(workflow: ApiPrompt, folder: str, max_images: int = 16) -> ApiPrompt:
    """Return the workflow with references from a folder."""
    graph = workflow.copy().add("Folder", "DiffLoRALoadFolder", image_folder=folder, max_images=max_images)
    graph.add("Loaded", "PreviewImage", images=graph.output("Folder"))
    return graph.set("Encode Face", image=graph.output("Folder"))


def test_a_folder_is_one_person(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    graph = from_folder(workflow, "person/one")
    result = client.run(graph.only("Save Image", "Loaded").prompt)
    assert [image.size for image in client.images(result, graph.id("Loaded"))] == list(SIZES.values())
    (text,) = result.outputs[graph.id("Folder")]["text"]
    counted, unread, passed_over = text.split("\n")
    assert counted == "3 of 4 images"
    assert unread.startswith("not read: broken.png is damaged or cut off")
    assert passed_over.startswith("1 file passed over: notes.txt; images are jpg")
    assert len(client.images(result, graph.id("Save Image"))) == 1


def test_the_first_by_name_up_to_a_limit(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    graph = from_folder(workflow, "person/one", 2)
    images = client.images(client.run(graph.only("Loaded").prompt), graph.id("Loaded"))
    assert [image.size for image in images] == list(SIZES.values())[:2]


def test_photos_of_a_camera_are_reduced(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    """As Encode Face does; in the host's memory each is a float for every color of every pixel."""
    photos = folder.with_name("photos")
    photos.mkdir()
    Image.new("RGB", (5120, 3000), (200, 205, 210)).save(photos / "photo.jpg")
    graph = from_folder(workflow, "person/photos").only("Loaded")
    (image,) = client.images(client.run(graph.prompt), graph.id("Loaded"))
    assert image.size == (2560, 1500)


def test_another_file_of_the_same_name_is_noticed(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    changing = folder.with_name("changing")
    changing.mkdir()
    graph = from_folder(workflow, "person/changing").only("Loaded")
    for gray in (50, 200):
        Image.new("RGB", (64, 64), (gray,) * 3).save(changing / "x.png")
        (image,) = client.images(client.run(graph.prompt), graph.id("Loaded"))
        assert image.getpixel((0, 0))[0] == gray


def test_nothing_to_read_is_an_error(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    folder.with_name("empty").mkdir()
    with pytest.raises(PromptError, match=r"no image of the folder 'person/empty' can be read: it is empty"):
        client.run(from_folder(workflow, "person/empty").only("Loaded").prompt)


def test_nothing_outside_of_the_input_folder_is_read(client: Client, workflow: ApiPrompt, folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    outside.mkdir()
    Image.new("RGB", (64, 64)).save(outside / "secret.png")
    for path in ("../outside", "person/../../outside", str(outside)):
        with pytest.raises(PromptError, match=r"DiffLoRALoadFolder: .*(is no choice|not in )"):
            client.run(from_folder(workflow, path).only("Loaded").prompt)
    os.symlink(outside, folder.with_name("link"))
    with pytest.raises(PromptError, match=r"DiffLoRALoadFolder: .*(is no choice|not in )"):
        client.run(from_folder(workflow, "person/link").only("Loaded").prompt)
    folder.with_name("linked").mkdir()
    os.symlink(outside / "secret.png", folder.with_name("linked") / "secret.png")
    with pytest.raises(PromptError, match=r"secret.png leads to .*outside of ComfyUI's input directory"):
        client.run(from_folder(workflow, "person/linked").only("Loaded").prompt)
