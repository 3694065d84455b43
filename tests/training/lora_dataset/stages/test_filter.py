"""Filter, on drawn people and the miniature's face models: each picture falls for its own reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import Scene, person, reference_scene
from training.lora_dataset.config import CollectConfig, DatasetConfig, FacesConfig, FilterConfig
from training.lora_dataset.images.faces import face_side, head_pose, largest_face, open_faces, sharpness, unit
from training.lora_dataset.images.histograms import LINE, PANEL, Histogram, draw_histograms
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import run_stage
from training.lora_dataset.stages.filter import FILTER, Measured, object_to

FACES = FacesConfig("miniature", WEIGHTS / "insightface")
THRESHOLDS = FilterConfig(40, 130.0, 0.6, 50.0, 40.0, 0.998, 3)


def picture(index: int, number: int) -> Image.Image:
    """The n-th picture of a validation person."""
    return Image.fromarray(draw(person(index), reference_scene(np.random.default_rng([32, index, number]))).image)


def two_people() -> Image.Image:
    both = Image.new("RGB", (240, 128), "white")
    both.paste(picture(6031, 5), (0, 0))
    both.paste(picture(6032, 5).resize((100, 100)), (134, 14))
    return both


GOOD = {f"{number:03d}.png": picture(6031, number) for number in range(4)}
BAD = {
    "nobody.png": (Image.fromarray(draw_empty(Scene())), "no face"),
    "two.png": (two_people(), "several faces"),
    "small.png": (picture(6031, 6).resize((64, 64)), "small face"),
    "blurred.png": (picture(6031, 7).filter(ImageFilter.GaussianBlur(2)), "blurred"),
    "stranger.png": (picture(6039, 0), "unlike the person"),
    "again.png": (GOOD["001.png"], "near-duplicate"),
}


def generated(workspace: Path, pictures: dict[str, Image.Image], item: str = "anne") -> DatasetConfig:
    """A workspace as collect and generate leave it; the person is the mean of pictures 10 to 12."""
    config = DatasetConfig(workspace, workspace, FACES, CollectConfig(), filter=THRESHOLDS)
    encoder = open_faces(FACES)
    faces = [unit(largest_face(encoder, picture(6031, n), "it").embedding.numpy()) for n in range(10, 13)]
    (workspace / "collect" / item).mkdir(parents=True)
    np.save(workspace / "collect" / item / "face.npy", unit(np.mean(faces, axis=0)))
    (workspace / "generate" / item).mkdir(parents=True)
    facts = []
    for name, image in pictures.items():
        image.save(workspace / "generate" / item / name)
        facts.append({"file": f"generate/{item}/{name}", "caption": f"a person, {name}"})
    Manifest(workspace / "generate").write(Record(item, facts={"pictures": facts}))
    return config


@pytest.fixture(scope="module")
def filtered(tmp_path_factory) -> tuple[DatasetConfig, Record]:
    torch.set_num_threads(1)
    config = generated(tmp_path_factory.mktemp("work"), GOOD | {name: image for name, (image, _) in BAD.items()})
    run_stage(FILTER, config)
    record = Manifest(config.stage("filter")).read("anne")
    assert record is not None
    return config, record


def dropped(record: Record) -> dict[str, dict]:
    return {Path(entry["file"]).name: entry for entry in record.facts["dropped"]}


def test_good_pictures_are_kept_best_first(filtered):
    _, record = filtered
    assert record.status == "done", record.reason
    kept = record.facts["kept"]
    assert len(kept) == 4
    assert {Path(entry["file"]).name for entry in kept} <= {*GOOD, "again.png"}
    assert all(entry["caption"] == f"a person, {Path(entry['file']).name}" for entry in kept)
    similarities = [entry["similarity"] for entry in kept]
    assert similarities == sorted(similarities, reverse=True)
    assert all(entry["sharpness"] >= THRESHOLDS.min_sharpness for entry in kept)


@pytest.mark.parametrize("name", BAD)
def test_each_bad_picture_falls_for_its_reason(filtered, name):
    _, record = filtered
    assert dropped(record)[name]["kind"] == BAD[name][1], dropped(record)[name]["reason"]
    assert set(dropped(record)) == set(BAD)


def test_reasons_tell_the_numbers(filtered):
    _, record = filtered
    reasons = {name: entry["reason"] for name, entry in dropped(record).items()}
    assert reasons["two.png"].startswith("2 faces")
    assert "below 40" in reasons["small.png"]
    assert "similarity" in reasons["stranger.png"]
    assert "near-duplicate of generate/anne/001.png (cosine 1.000)" in reasons["again.png"]


def test_several_faces_may_be_allowed(tmp_path):
    config = generated(tmp_path, GOOD | {"two.png": BAD["two.png"][0]})
    run_stage(FILTER, replace(config, filter=replace(THRESHOLDS, several_faces=False)))
    record = Manifest(config.stage("filter")).read("anne")
    assert "generate/anne/two.png" in [entry["file"] for entry in record.facts["kept"]]


def test_of_two_alike_the_better_is_kept(tmp_path):
    """The near-duplicate is the later one in one order and the earlier one in the other: the same picture stays."""
    soft = GOOD["001.png"].filter(ImageFilter.GaussianBlur(0.6))
    kept = []
    for number, names in enumerate((("a.png", "b.png"), ("b.png", "a.png"))):
        config = generated(tmp_path / str(number), dict(zip(names, (GOOD["001.png"], soft), strict=True)))
        run_stage(FILTER, replace(config, filter=replace(THRESHOLDS, same_picture=0.9, min_pictures=1)))
        record = Manifest(config.stage("filter")).read("anne")
        (entry,) = record.facts["kept"]
        (other,) = record.facts["dropped"]
        assert entry["similarity"] >= other["similarity"]
        kept.append((Path(entry["file"]).name, names))
    assert kept[0][1].index(kept[0][0]) == kept[1][1].index(kept[1][0])


def test_too_few_pictures_drop_the_person_and_an_unreadable_one_is_named(tmp_path):
    config = generated(tmp_path, {name: GOOD[name] for name in ("000.png", "001.png")} | {"x.png": GOOD["002.png"]})
    (tmp_path / "generate" / "anne" / "x.png").write_bytes(b"not a picture")
    run_stage(FILTER, config)
    record = Manifest(config.stage("filter")).read("anne")
    assert record.status == "dropped"
    assert record.reason == "2 of 3 pictures are left, at least 3 are needed: 1 × unreadable"
    assert "x.png is no picture" in record.facts["dropped"][0]["reason"]


def test_without_the_stages_before_the_error_says_which(tmp_path):
    config = generated(tmp_path / "a", GOOD)
    (tmp_path / "a" / "collect" / "anne" / "face.npy").unlink()
    run_stage(FILTER, config)
    record = Manifest(config.stage("filter")).read("anne")
    assert record.status == "failed"
    assert "run the stage `collect` first" in record.reason
    with pytest.raises(ValueError, match="run the stage `generate` first"):
        FILTER.items(replace(config, workspace=tmp_path / "b"))


def test_a_person_of_another_face_model_is_refused(tmp_path):
    config = generated(tmp_path, GOOD)
    np.save(tmp_path / "collect" / "anne" / "face.npy", unit(np.ones(7)))
    run_stage(FILTER, config)
    record = Manifest(config.stage("filter")).read("anne")
    assert record.status == "failed"
    assert "has 7 numbers" in record.reason


def test_the_histograms_show_every_threshold(filtered):
    config, _ = filtered
    sheet = np.asarray(Image.open(config.stage("filter") / "histograms.png"))
    red = (sheet == [int(LINE[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
    for row in range(2):
        for column in range(3):
            panel = red[row * PANEL[1] : (row + 1) * PANEL[1], column * PANEL[0] : (column + 1) * PANEL[0]]
            assert panel.sum(0).max() > 100, (row, column)  # an upright line
    assert len(list(config.stage("filter").iterdir())) == 2


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [-1.0, 5.0]])
def test_histograms_of_little(tmp_path, values):
    draw_histograms([Histogram("little", values, 2.0), Histogram("none", values)], tmp_path / "h.png")
    assert Image.open(tmp_path / "h.png").size == (3 * PANEL[0], PANEL[1])


def landmarks(yaw: float, pitch: float, roll: float) -> torch.Tensor:
    """A mean head's five points, turned (degrees; to the right, down, clockwise), in parallel projection, in pixels."""
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


def test_drawn_people_turn_the_way_they_are_told():
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
    encoder, image = open_faces(FACES), picture(6031, 0)
    whole, half = (largest_face(encoder, each, "it") for each in (image, image.resize((64, 64))))
    assert sharpness(half.crop) < 0.5 * sharpness(whole.crop)
    assert sharpness(torch.full((112, 112, 3), 0.5)) == 0


def test_every_objection_is_listed():
    bad = Measured(faces=2, side=10.0, sharpness=1.0, similarity=0.0, yaw=-80.0, pitch=70.0)
    assert list(object_to(bad, THRESHOLDS)) == [
        "several faces", "small face", "blurred", "unlike the person", "turned", "nodding",
    ]  # fmt: skip
    assert object_to(Measured(1, 40, 130, 0.6, -50, 40), THRESHOLDS) == {}
