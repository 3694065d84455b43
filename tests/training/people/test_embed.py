"""The embedding stage with the miniature's real face pack and CLIP vision folder, on two people with two images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.config import EncoderNames
from difflora_core.encoders.image_encoder import ImageEncoder
from miniature.paths import WEIGHTS
from miniature.personal.example_dataset import draw_person_folders
from miniature.world.scenes import TEACHER_SCENES
from training.lora_dataset.config import DatasetConfig, FacesConfig
from training.lora_dataset.fingerprints import hash_value
from training.lora_dataset.images.faces import open_faces
from training.lora_dataset.manifest import Manifest, Record
from training.people.embed import Embed, embed_images, embed_people, kept_files
from training.people.embeddings import EmbeddingCache

CLIP = WEIGHTS / "clip_vision" / "miniature"
NAMES = ("person_00020", "person_00021")


def keep(workspace: Path, person: str, numbers: list[int]) -> None:
    """What the filter's record of a person says, the best image first."""
    kept = [{"file": f"pictures/{person}/{number:02d}.png"} for number in numbers]
    Manifest(workspace / "filter").write(Record(person, facts={"kept": kept}))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("work")
    draw_person_folders(workspace / "pictures", (20, 21), TEACHER_SCENES[:3])
    for name in NAMES:
        keep(workspace, name, [1, 0])
    return DatasetConfig(workspace, workspace, faces=FacesConfig("miniature", WEIGHTS / "insightface"))


@pytest.fixture(scope="module")
def folder(config):
    return embed_people(config, CLIP)


def test_images_are_embedded_as_the_encoders_do(config, folder):
    cache = EmbeddingCache.open(folder)
    assert sorted(cache.people) == list(NAMES)
    assert cache.encoders == EncoderNames("miniature", "miniature")
    own = cache.people[NAMES[1]]
    assert own.files == tuple(f"pictures/{NAMES[1]}/{number:02d}.png" for number in (0, 1))
    arrays = [np.asarray(Image.open(config.workspace / file).convert("RGB")) for file in own.files]
    torch.testing.assert_close(own.face, open_faces(config.faces).encode(arrays))
    torch.testing.assert_close(own.image, ImageEncoder.open(CLIP).encode(arrays), atol=1e-5, rtol=1e-4)


def test_a_turned_image_is_embedded_upright_by_both_encoders(config, folder):
    upright = config.workspace / "pictures" / NAMES[1] / "00.png"
    turned = config.workspace / "turned.png"
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(turned)
    encoders = open_faces(config.faces), ImageEncoder.open(CLIP)
    files = [str(path.relative_to(config.workspace)) for path in (upright, turned)]
    expected, found = (embed_images(config.workspace, [file], *encoders) for file in files)
    torch.testing.assert_close(found.face, expected.face, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.image, expected.image, atol=1e-5, rtol=1e-4)


def test_it_is_recorded_what_embeddings_were_made_from(config, folder):
    made_from = {person.made_from for person in EmbeddingCache.open(folder).people.values()}
    assert len(made_from) == len(NAMES)
    stage = Embed(CLIP, EncoderNames("miniature", "miniature"))
    assert made_from == {hash_value(stage.fingerprints(config)(name)) for name in NAMES}


def test_a_second_run_embeds_nothing_again(config, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    embed_people(config, CLIP)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_person_with_other_images_is_embedded_again(config, folder):
    keep(config.workspace, NAMES[0], [2, 1, 0])
    stage = Embed(CLIP, EncoderNames("miniature", "miniature"))
    assert embed_people(config, CLIP) == config.stage(stage.name)
    assert {name: len(p.face) for name, p in EmbeddingCache.open(folder).people.items()} == {
        NAMES[0]: 3,
        NAMES[1]: 2,
    }


def test_an_image_without_a_face_is_left_out(config, folder):
    person = config.workspace / "pictures" / "nobody"
    person.mkdir()
    Image.new("RGB", (64, 64), "white").save(person / "00.png")
    keep(config.workspace, "nobody", [0])
    try:
        embed_people(config, CLIP)
        record = Manifest(folder).read("nobody")
        assert record.status == "dropped"
        assert "no face was found in any of 1 images" in record.reason
        assert "nobody" not in EmbeddingCache.open(folder).people
    finally:
        (config.workspace / "filter" / "nobody.json").unlink()


def test_a_lost_file_is_made_again(config, folder):
    path = folder / f"{NAMES[1]}.safetensors"
    path.unlink()
    embed_people(config, CLIP)
    assert path.exists()


def test_people_that_failed_are_named(config):
    broken = dataclasses.replace(config, workspace=config.workspace / "broken")
    keep(broken.workspace, "ann", [0])
    with pytest.raises(RuntimeError, match=r"1 people could not be embedded, first ann: .*is not there"):
        embed_people(broken, CLIP)


def test_without_the_filter_nothing_is_done(config, tmp_path):
    with pytest.raises(ValueError, match="run the stage `filter`"):
        embed_people(dataclasses.replace(config, workspace=tmp_path), CLIP)


def test_images_are_in_the_order_of_their_numbers() -> None:
    files = [f"generate/ann/{number:03d}.png" for number in (7, 999, 1000)]
    record = Record("ann", facts={"kept": [{"file": file} for file in reversed(files)]})
    assert kept_files(record) == files
