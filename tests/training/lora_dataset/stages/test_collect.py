"""Collect, on drawn people and the miniature's face models: what is kept, dropped and merged, and why."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.world.drawing import draw_empty
from miniature.world.scenes import reference_scene
from tests.training.lora_dataset.collect_inputs import drawn_image, run, save, settings
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.images.faces import unit
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import compare
from training.lora_dataset.stages.collect import COLLECT


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A folder per person: `anne`, also under another name, `bert`, a person with unusable images, nobody."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(3):
        save(folder / "anne" / f"{number}.png", drawn_image(6001, number))
        save(folder / "bert" / f"{number}.png", drawn_image(6002, number))
    for number in range(3, 5):
        save(folder / "Zoë\nAnne" / f"{number}.jpg", drawn_image(6001, number))
    (folder / "anne" / "1.txt").write_text("anne in\n the rain ", encoding="utf-8")
    (folder / "Zoë\nAnne" / "4.jpg.txt").write_text("zoë in the sun", encoding="utf-8")
    save(folder / "bert" / "again.png", drawn_image(6002, 0).resize((256, 256)))
    save(folder / "trouble" / "a good one.png", drawn_image(6003, 0))
    save(folder / "trouble" / "empty.png", Image.fromarray(draw_empty(reference_scene(np.random.default_rng(1)))))
    small = Image.new("RGB", (128, 128), "white")
    small.paste(drawn_image(6003, 1).resize((64, 64)), (32, 32))
    save(folder / "trouble" / "far away.png", small)
    cut = save(folder / "trouble" / "truncated.png", drawn_image(6003, 2))
    cut.write_bytes(cut.read_bytes()[:3000])
    (folder / "trouble" / "notes.doc").write_text("not a image, and not taken for one")
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


def test_images_faces_and_captions_are_where_the_stage_says(collected, people):
    config, records = collected
    for item in ("anne", "bert", "trouble"):
        folder = config.stage("collect") / item
        facts = records[item].facts
        assert sorted(path.name for path in folder.glob("*.png")) == facts["images"]
        assert len(facts["sources"]) == len(facts["images"])
        face = np.load(folder / facts["face"])
        assert face.dtype == np.float32
        assert abs(np.linalg.norm(face) - 1) < 1e-5
    stored = Image.open(config.stage("collect") / "anne" / "001.png")
    assert np.array_equal(np.asarray(stored), np.asarray(drawn_image(6001, 1)))
    assert records["anne"].facts["sources"][1] == str(people / "anne" / "1.png")
    assert (config.stage("collect") / "anne" / "001.txt").read_text(encoding="utf-8") == "anne in the rain"
    assert not (config.stage("collect") / "anne" / "000.txt").exists()


def test_one_person_under_two_names_is_merged(collected):
    config, records = collected
    duplicate = zoe(records)
    assert duplicate.status == "dropped"
    assert duplicate.reason.startswith("same person as anne (cosine 0.")
    anne = records["anne"].facts
    assert anne["merged"] == [duplicate.item]
    assert anne["images"] == ["000.png", "001.png", "002.png", "003.png", "004.png"]
    assert [Path(source).name for source in anne["sources"]] == ["0.png", "1.png", "2.png", "3.jpg", "4.jpg"]
    home = config.stage("collect") / "anne"
    assert (home / "003.png").read_bytes() == (home.parent / duplicate.item / "000.png").read_bytes()
    assert (home / "004.txt").read_text(encoding="utf-8") == "zoë in the sun"
    all_faces = np.concatenate([np.load(home / "faces.npy"), np.load(home.parent / duplicate.item / "faces.npy")])
    assert np.allclose(np.load(home / "face.npy"), unit(all_faces.mean(0)), atol=1e-6)


def test_every_dropped_image_has_its_reason(collected):
    _, records = collected
    reasons = {Path(entry["source"]).name: entry["reason"] for entry in records["trouble"].facts["dropped"]}
    assert set(reasons) == {"empty.png", "far away.png", "truncated.png"}
    assert reasons["empty.png"] == "no face was found"
    assert "at least 40 are needed" in reasons["far away.png"]
    assert "damaged or cut off" in reasons["truncated.png"]
    (again,) = records["bert"].facts["dropped"]
    assert Path(again["source"]).name == "again.png"
    assert again["reason"].startswith("near-duplicate of 000.png (cosine ")


def test_a_person_without_a_usable_image_is_dropped(collected):
    _, records = collected
    assert (records["nobody"].status, records["nobody"].reason) == ("dropped", "there are no images")
    assert records["wall"].status == "dropped"
    assert "none of 1 images can be used" in records["wall"].reason
    assert "wall.png: no face was found" in records["wall"].reason


def test_finish_may_run_again(collected):
    config, _ = collected
    before = content(config.workspace)
    assert compare(COLLECT, config).pending == {}
    COLLECT.finish(config)
    assert content(config.workspace) == before


def test_interrupted_runs_give_what_one_run_gives(collected, people, tmp_path):
    whole, records = collected
    config = settings(tmp_path, people)
    worker, manifest = COLLECT.worker(config, "cpu"), Manifest(config.stage("collect"))
    for item in (zoe(records).item, "trouble"):
        manifest.write(worker(item))
    COLLECT.finish(config)
    assert zoe({record.item: record for record in manifest.records()}).status == "done"  # until anne comes
    save(config.stage("collect") / "bert" / "017.png", drawn_image(6005, 0))  # of a worker that was killed
    assert {item: (record.status, record.reason, record.facts) for item, record in run(config).items()} == {
        item: (record.status, record.reason, record.facts) for item, record in records.items()
    }
    pieces, one = (
        {name: data for name, data in content(each.stage("collect")).items() if not name.endswith(".json")}
        for each in (config, whole)
    )
    assert pieces == one


def test_another_decision_undoes_the_merge(collected, people, tmp_path):
    config = settings(tmp_path, people)
    run(config)
    records = run(settings(tmp_path, people, same_person=0.9999))
    assert zoe(records).status == "done"
    assert "same_person" not in zoe(records).facts
    assert records["anne"].facts["images"] == ["000.png", "001.png", "002.png"]
    assert len(list((config.stage("collect") / "anne").glob("*.png"))) == 3
    own = np.load(config.stage("collect") / "anne" / "faces.npy")
    assert np.allclose(np.load(config.stage("collect") / "anne" / "face.npy"), unit(own.mean(0)), atol=1e-6)


@pytest.fixture
def two_folders_of_anne(tmp_path) -> DatasetConfig:
    """`anne` and `zoe`, who are one person, and `bert`."""
    for name, index, numbers in (("anne", 6001, (0, 1)), ("bert", 6002, (0,)), ("zoe", 6001, (3,))):
        for number in numbers:
            save(tmp_path / "in" / name / f"{number}.png", drawn_image(index, number))
    return settings(tmp_path / "work", tmp_path / "in")


def test_a_merged_image_that_changes_is_copied_again(two_folders_of_anne):
    config = two_folders_of_anne
    folder, source = config.stage("collect"), Path(config.collect.path) / "zoe"
    assert run(config)["anne"].facts["images"] == ["000.png", "001.png", "002.png"]
    before = np.load(folder / "anne" / "face.npy")
    save(source / "3.png", drawn_image(6001, 4))
    run(config)
    assert (folder / "anne" / "002.png").read_bytes() == (folder / "zoe" / "000.png").read_bytes()
    assert not np.array_equal(np.load(folder / "anne" / "face.npy"), before)
    (source / "3.txt").write_text("in the sun", encoding="utf-8")
    run(config)
    assert (folder / "anne" / "002.txt").read_text(encoding="utf-8") == "in the sun"


def test_a_merged_entry_that_left_the_source_is_merged_no_more(two_folders_of_anne):
    config = two_folders_of_anne
    run(config)
    shutil.rmtree(Path(config.collect.path) / "zoe")
    assert run(config)["anne"].facts["images"] == ["000.png", "001.png"]
    assert sorted(path.name for path in (config.stage("collect") / "anne").glob("*.png")) == ["000.png", "001.png"]


def test_nobody_of_two_merged_entries_outlives_both(two_folders_of_anne):
    config = two_folders_of_anne
    run(config)
    for name in ("anne", "zoe"):
        shutil.rmtree(Path(config.collect.path) / name)
    run(config)
    assert Manifest(config.stage("collect")).done() == ["bert"]


def test_drop_instead_of_merge_and_max_images(people, tmp_path):
    dropped = run(settings(tmp_path / "a", people, action="drop", max_images=2))
    assert zoe(dropped).reason.endswith("dropped")
    assert dropped["anne"].facts["images"] == ["000.png", "001.png"]
    assert dropped["anne"].facts["unread"] == 1
    merged = run(settings(tmp_path / "b", people, max_images=4))
    assert len(merged["anne"].facts["images"]) == 4
    assert merged["anne"].facts["dropped"][-1]["reason"] == "4 images are enough"


def test_nobody_at_all_is_an_error_that_says_why(tmp_path):
    save(tmp_path / "in" / "wall" / "a.png", Image.new("RGB", (64, 64), "gray"))
    with pytest.raises(ValueError, match=r"nobody was collected.*wall: none of 1 images.*no face"):
        run(settings(tmp_path / "out", tmp_path / "in"))


def changes(config: DatasetConfig) -> dict[str, int]:
    """What differs from what the people were collected from, and for how many."""
    return dict(compare(COLLECT, config).changes)


def test_other_pictures_and_thresholds_are_collected_again(tmp_path):
    for name in ("anne", "bert"):
        for number in range(2):
            save(tmp_path / "in" / name / f"{number}.png", drawn_image(6001 if name == "anne" else 6002, number))
    config = settings(tmp_path / "work", tmp_path / "in")
    run(config)
    assert changes(config) == {}
    assert changes(settings(tmp_path / "work", tmp_path / "in", min_face=41)) == {"collect.min_face was 40, is 41": 2}
    picture = tmp_path / "in" / "anne" / "1.png"
    before, times = picture.read_bytes(), picture.stat()
    save(picture, drawn_image(6001, 7))
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its times does
    assert changes(config) == {"other images": 1}
    run(config)
    stored = Image.open(config.stage("collect") / "anne" / "001.png")
    assert np.array_equal(np.asarray(stored), np.asarray(drawn_image(6001, 7)))
    picture.unlink()
    assert changes(config) == {"other images": 1}
    assert run(config)["anne"].facts["images"] == ["000.png"]
    picture.write_bytes(before)
    assert changes(config) == {"other images": 1}
