"""Collect, on drawn people and the miniature's face models: what is kept, dropped and merged, and why."""

import json
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person, reference_scene
from training.lora_dataset.config import CollectConfig, DatasetConfig, FacesConfig
from training.lora_dataset.images.faces import first_of_each, unit
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import run_stage, waiting
from training.lora_dataset.stages.collect import COLLECT

FACES = FacesConfig("miniature", WEIGHTS / "insightface")


def picture(index: int, number: int, size: int = 128) -> Image.Image:
    """The n-th picture of a validation person."""
    scene = reference_scene(np.random.default_rng([31, index, number]))
    return Image.fromarray(draw(person(index), scene, size=size).image)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def settings(workspace: Path, path: Path | str, **collect: object) -> DatasetConfig:
    values = {"min_face": 40, "same_person": 0.85, "same_picture": 0.99} | collect
    return DatasetConfig(workspace, workspace, FACES, CollectConfig(path=str(path), **values))


def run(config: DatasetConfig) -> dict[str, Record]:
    """The records of collect by item."""
    torch.set_num_threads(1)
    run_stage(COLLECT, config)
    return {record.item: record for record in Manifest(config.stage("collect")).records()}


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A folder per person: `anne` twice over under another name, `bert`, somebody with trouble, and nobody."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(3):
        save(folder / "anne" / f"{number}.png", picture(6001, number))
        save(folder / "bert" / f"{number}.png", picture(6002, number))
    for number in range(3, 5):
        save(folder / "Zoë\nAnne" / f"{number}.jpg", picture(6001, number))
    (folder / "anne" / "1.txt").write_text("anne in\n the rain ", encoding="utf-8")
    (folder / "Zoë\nAnne" / "4.jpg.txt").write_text("zoë in the sun", encoding="utf-8")
    save(folder / "bert" / "again.png", picture(6002, 0).resize((256, 256)))
    save(folder / "trouble" / "a good one.png", picture(6003, 0))
    save(folder / "trouble" / "empty.png", Image.fromarray(draw_empty(reference_scene(np.random.default_rng(1)))))
    small = Image.new("RGB", (128, 128), "white")
    small.paste(picture(6003, 1).resize((64, 64)), (32, 32))
    save(folder / "trouble" / "far away.png", small)
    cut = save(folder / "trouble" / "truncated.png", picture(6003, 2))
    cut.write_bytes(cut.read_bytes()[:3000])
    (folder / "trouble" / "notes.doc").write_text("not a picture, and not taken for one")
    (folder / "nobody").mkdir()
    save(folder / "wall" / "wall.png", Image.fromarray(draw_empty(reference_scene(np.random.default_rng(2)))))
    return folder


@pytest.fixture(scope="module")
def collected(people, tmp_path_factory) -> tuple[DatasetConfig, dict[str, Record]]:
    config = settings(tmp_path_factory.mktemp("work"), people)
    return config, run(config)


def zoe(records: dict[str, Record]) -> Record:
    (item,) = (item for item in records if item.startswith("zoe-anne-"))
    return records[item]


def test_who_is_left(collected):
    config, records = collected
    assert len(records) == 6
    done = {item for item, record in records.items() if record.status == "done"}
    assert done == {"anne", "bert", "trouble"} == set(Manifest(config.stage("collect")).done())


def test_pictures_faces_and_captions_lie_where_the_contract_says(collected, people):
    config, records = collected
    for item in ("anne", "bert", "trouble"):
        folder = config.stage("collect") / item
        facts = records[item].facts
        assert sorted(path.name for path in folder.glob("*.png")) == facts["pictures"]
        assert len(facts["sources"]) == len(facts["pictures"])
        face = np.load(folder / facts["face"])
        assert face.dtype == np.float32
        assert abs(np.linalg.norm(face) - 1) < 1e-5
    stored = Image.open(config.stage("collect") / "anne" / "001.png")
    assert np.array_equal(np.asarray(stored), np.asarray(picture(6001, 1)))
    assert records["anne"].facts["sources"][1] == str(people / "anne" / "1.png")
    assert (config.stage("collect") / "anne" / "001.txt").read_text(encoding="utf-8") == "anne in the rain"
    assert not (config.stage("collect") / "anne" / "000.txt").exists()


def test_one_person_under_two_names_is_merged(collected):
    config, records = collected
    guest = zoe(records)
    assert guest.status == "dropped"
    assert guest.reason.startswith("same person as anne (cosine 0.")
    anne = records["anne"].facts
    assert anne["merged"] == [guest.item]
    assert anne["pictures"] == ["000.png", "001.png", "002.png", "003.png", "004.png"]
    assert [Path(source).name for source in anne["sources"]] == ["0.png", "1.png", "2.png", "3.jpg", "4.jpg"]
    home = config.stage("collect") / "anne"
    assert (home / "003.png").read_bytes() == (home.parent / guest.item / "000.png").read_bytes()
    assert (home / "004.txt").read_text(encoding="utf-8") == "zoë in the sun"
    all_faces = np.concatenate([np.load(home / "faces.npy"), np.load(home.parent / guest.item / "faces.npy")])
    assert np.allclose(np.load(home / "face.npy"), unit(all_faces.mean(0)), atol=1e-6)


def test_every_dropped_picture_has_its_reason(collected):
    _, records = collected
    reasons = {Path(entry["source"]).name: entry["reason"] for entry in records["trouble"].facts["dropped"]}
    assert set(reasons) == {"empty.png", "far away.png", "truncated.png"}
    assert reasons["empty.png"] == "no face was found"
    assert "at least 40 are needed" in reasons["far away.png"]
    assert "damaged or cut off" in reasons["truncated.png"]
    (again,) = records["bert"].facts["dropped"]
    assert Path(again["source"]).name == "again.png"
    assert again["reason"].startswith("near-duplicate of 000.png (cosine ")


def test_a_person_without_a_usable_picture_is_dropped(collected):
    _, records = collected
    assert (records["nobody"].status, records["nobody"].reason) == ("dropped", "there are no pictures")
    assert records["wall"].status == "dropped"
    assert "none of 1 pictures can be used" in records["wall"].reason
    assert "wall.png: no face was found" in records["wall"].reason


def test_finish_may_run_again(collected):
    config, _ = collected
    before = content(config.workspace)
    assert waiting(COLLECT, config) == []
    COLLECT.finish(config)
    assert content(config.workspace) == before


def test_a_run_in_pieces_gives_what_one_run_gives(collected, people, tmp_path):
    whole, records = collected
    config = settings(tmp_path, people)
    worker, manifest = COLLECT.worker(config, "cpu"), Manifest(config.stage("collect"))
    for item in (zoe(records).item, "trouble"):
        manifest.write(worker(item))
    COLLECT.finish(config)
    assert zoe({record.item: record for record in manifest.records()}).status == "done"  # until anne comes
    save(config.stage("collect") / "bert" / "017.png", picture(6005, 0))  # of a worker that was killed
    assert {item: (record.status, record.reason, record.facts) for item, record in run(config).items()} == {
        item: (record.status, record.reason, record.facts) for item, record in records.items()
    }
    pieces, one = (
        {name: data for name, data in content(each.stage("collect")).items() if not name.endswith(".json")}
        for each in (config, whole)
    )
    assert pieces == one


def test_another_decision_takes_the_merge_back(collected, people, tmp_path):
    config = settings(tmp_path, people)
    run(config)
    records = run(settings(tmp_path, people, same_person=0.9999))
    assert zoe(records).status == "done"
    assert "same_person" not in zoe(records).facts
    assert records["anne"].facts["pictures"] == ["000.png", "001.png", "002.png"]
    assert len(list((config.stage("collect") / "anne").glob("*.png"))) == 3
    own = np.load(config.stage("collect") / "anne" / "faces.npy")
    assert np.allclose(np.load(config.stage("collect") / "anne" / "face.npy"), unit(own.mean(0)), atol=1e-6)


def test_drop_instead_of_merge_and_at_most_so_many_pictures(people, tmp_path):
    dropped = run(settings(tmp_path / "a", people, action="drop", max_pictures=2))
    assert zoe(dropped).reason.endswith("dropped")
    assert dropped["anne"].facts["pictures"] == ["000.png", "001.png"]
    assert dropped["anne"].facts["unread"] == 1
    merged = run(settings(tmp_path / "b", people, max_pictures=4))
    assert len(merged["anne"].facts["pictures"]) == 4
    assert merged["anne"].facts["dropped"][-1]["reason"] == "4 pictures are enough"


def test_each_picture_a_person(tmp_path):
    save(tmp_path / "in" / "one" / "same name.png", picture(6011, 0))
    save(tmp_path / "in" / "two" / "same name.png", picture(6012, 0))
    save(tmp_path / "in" / "same name.jpg", picture(6013, 0))
    save(tmp_path / "in" / ".hidden.png", picture(6014, 0))
    records = run(settings(tmp_path / "out", tmp_path / "in", source="pictures"))
    assert len(records) == 3
    assert all(item.startswith("same-name-") and record.status == "done" for item, record in records.items())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not Unicode")
def test_a_name_that_is_not_unicode(tmp_path):
    save(tmp_path / "in" / os.fsdecode(b"caf\xe9") / "a.png", picture(6011, 0))
    (record,) = run(settings(tmp_path / "out", tmp_path / "in")).values()
    assert record.item.startswith("caf-")
    assert record.status == "done", record.reason
    assert record.facts["origin"] == "caf\\udce9"


def test_limit_takes_the_first(people, tmp_path):
    assert len(COLLECT.items(settings(tmp_path, people, limit=2))) == 2
    assert COLLECT.items(settings(tmp_path, people, limit=2)) == COLLECT.items(settings(tmp_path, people))[:2]


@pytest.mark.parametrize("source", ["pictures", "people"])
def test_an_empty_folder_is_an_error(tmp_path, source):
    (tmp_path / "in" / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"not one picture|holds no pictures"):
        COLLECT.items(settings(tmp_path, tmp_path / "in", source=source))
    with pytest.raises(FileNotFoundError, match="elsewhere is not there, expected a folder"):
        COLLECT.items(settings(tmp_path, tmp_path / "elsewhere", source=source))


def test_pictures_in_place_of_folders_are_explained(tmp_path):
    save(tmp_path / "in" / "a.png", picture(6001, 0))
    with pytest.raises(ValueError, match="it holds 1 pictures: if each is a person, set collect"):
        COLLECT.items(settings(tmp_path, tmp_path / "in"))


def test_nobody_at_all_is_an_error_that_says_why(tmp_path):
    save(tmp_path / "in" / "wall" / "a.png", Image.new("RGB", (64, 64), "grey"))
    with pytest.raises(ValueError, match=r"nobody was collected.*wall: none of 1 pictures.*no face"):
        run(settings(tmp_path / "out", tmp_path / "in"))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Rows of two people, one row without a label, one without a picture, as `save_to_disk` writes them."""
    folder = tmp_path_factory.mktemp("table")
    pictures = [picture(6021, 0), picture(6022, 0), picture(6021, 1), picture(6023, 0), None]
    rows = datasets.Dataset.from_dict(
        {"photo": pictures, "who": [0, 1, 0, None, 1]},
        features=datasets.Features({"photo": datasets.Image(), "who": datasets.ClassLabel(names=["Eva", "Ida M."])}),
    )
    rows.save_to_disk(str(folder / "rows"))
    return folder / "rows"


def test_rows_grouped_by_a_label(table, tmp_path):
    records = run(settings(tmp_path, table, source="datasets", image="photo", label="who"))
    by_origin = {record.facts["origin"]: record for record in records.values()}
    assert set(by_origin) == {"Eva", "Ida M.", "row 3"}
    assert by_origin["Eva"].facts["sources"] == ["row 0", "row 2"]
    assert by_origin["Ida M."].facts["dropped"] == [
        {"source": "row 4", "reason": "row 4 has no picture in column 'photo'"}
    ]


def test_each_row_a_person(table, tmp_path):
    records = run(settings(tmp_path, table, source="datasets", image="photo", limit=3))
    assert [(item, record.status) for item, record in records.items()] == [
        ("row-00000000", "done"), ("row-00000001", "done"), ("row-00000002", "dropped"),
    ]  # fmt: skip
    assert records["row-00000002"].reason.startswith("same person as row-00000000")


def test_a_folder_of_files_is_a_data_set_too(tmp_path):
    save(tmp_path / "in" / "a.png", picture(6021, 0))
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "who": "Eva"}))
    config = settings(tmp_path / "out", tmp_path / "in", source="datasets", label="who")
    assert [record.facts["origin"] for record in run(config).values()] == ["Eva"]


def test_a_column_or_a_data_set_that_is_not_there(table, tmp_path):
    with pytest.raises(ValueError, match="no column 'face', only photo, who"):
        COLLECT.items(settings(tmp_path, table, source="datasets", image="face"))
    with pytest.raises(ValueError, match="cannot open nobody/nothing without the network"):
        COLLECT.items(settings(tmp_path, "nobody/nothing", source="datasets"))


def test_without_the_library_the_error_says_what_to_install(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="python -m pip install datasets"):
        COLLECT.items(settings(tmp_path, table, source="datasets"))


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
        assert [owner for owner, _ in first_of_each(faces, 0.8, block)] == expected
