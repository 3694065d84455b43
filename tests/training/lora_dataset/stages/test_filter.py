"""Filter, on drawn people and the miniature's face models: each image is dropped for its own reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from miniature.paths import WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person
from miniature.world.scenes import Scene, reference_scene
from training.engine.charts import DOTS_PER_INCH, HISTOGRAM_PANEL, THRESHOLD
from training.lora_dataset.config import CollectConfig, DatasetConfig, FacesConfig, FilterConfig
from training.lora_dataset.images.faces import largest_face, open_faces, unit
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import compare, run_stage
from training.lora_dataset.stages import filter as filter_stage
from training.lora_dataset.stages.filter import FILTER, FaceMeasurements, failed_thresholds

FACES = FacesConfig("miniature", WEIGHTS / "insightface")


THRESHOLDS = FilterConfig(40, 100.0, 0.6, 50.0, 40.0, 0.998, 3)


def drawn_image(index: int, number: int) -> Image.Image:
    """The n-th image of a validation person."""
    return Image.fromarray(draw(person(index), reference_scene(np.random.default_rng([32, index, number]))).image)


def two_people() -> Image.Image:
    both = Image.new("RGB", (240, 128), "white")
    both.paste(drawn_image(6031, 5), (0, 0))
    both.paste(drawn_image(6032, 5).resize((100, 100)), (134, 14))
    return both


GOOD = {f"{number:03d}.png": drawn_image(6031, number) for number in range(4)}


BAD = {
    "nobody.png": (Image.fromarray(draw_empty(Scene())), "no face"),
    "two.png": (two_people(), "several faces"),
    "small.png": (drawn_image(6031, 6).resize((64, 64)), "small face"),
    "blurred.png": (drawn_image(6031, 7).filter(ImageFilter.GaussianBlur(2)), "blurred"),
    "sideways.png": (drawn_image(6031, 8).transpose(Image.Transpose.ROTATE_90), "not upright"),
    "stranger.png": (drawn_image(6039, 0), "unlike the person"),
    "again.png": (GOOD["001.png"], "near-duplicate"),
}


def generated(workspace: Path, images: dict[str, Image.Image], item: str = "anne") -> DatasetConfig:
    """A workspace as collect and generate leave it; the person is the mean of images 10 to 12."""
    config = DatasetConfig(workspace, workspace, FACES, CollectConfig(), filter=THRESHOLDS)
    encoder = open_faces(FACES)
    faces = [unit(largest_face(encoder, drawn_image(6031, n), "it").embedding.numpy()) for n in range(10, 13)]
    (workspace / "collect" / item).mkdir(parents=True)
    np.save(workspace / "collect" / item / "face.npy", unit(np.mean(faces, axis=0)))
    (workspace / "generate" / item).mkdir(parents=True)
    facts = []
    for name, image in images.items():
        image.save(workspace / "generate" / item / name)
        facts.append({"file": f"generate/{item}/{name}", "caption": f"a person, {name}"})
    Manifest(workspace / "generate").write(Record(item, facts={"images": facts}))
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


def test_good_images_are_kept_best_first(filtered):
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
def test_each_bad_image_is_dropped_for_its_reason(filtered, name):
    _, record = filtered
    assert dropped(record)[name]["kind"] == BAD[name][1], dropped(record)[name]["reason"]
    assert set(dropped(record)) == set(BAD)


def test_reasons_name_the_measurements(filtered):
    _, record = filtered
    reasons = {name: entry["reason"] for name, entry in dropped(record).items()}
    assert reasons["two.png"].startswith("2 faces")
    assert "below 40" in reasons["small.png"]
    assert "similarity" in reasons["stranger.png"]
    assert reasons["sideways.png"] == "the image has to be turned by 270° counterclockwise"
    assert "near-duplicate of generate/anne/001.png (cosine 1.000)" in reasons["again.png"]


def test_several_faces_may_be_allowed(tmp_path):
    config = generated(tmp_path, GOOD | {"two.png": BAD["two.png"][0]})
    run_stage(FILTER, replace(config, filter=replace(THRESHOLDS, several_faces=False)))
    record = Manifest(config.stage("filter")).read("anne")
    assert "generate/anne/two.png" in [entry["file"] for entry in record.facts["kept"]]


def test_of_two_alike_the_better_is_kept(tmp_path):
    """The near-duplicate is the later one in one order and the earlier one in the other: the same image stays."""
    soft = GOOD["001.png"].filter(ImageFilter.GaussianBlur(0.6))
    kept = []
    for number, names in enumerate((("a.png", "b.png"), ("b.png", "a.png"))):
        config = generated(tmp_path / str(number), dict(zip(names, (GOOD["001.png"], soft), strict=True)))
        run_stage(FILTER, replace(config, filter=replace(THRESHOLDS, same_image=0.9, min_images=1)))
        record = Manifest(config.stage("filter")).read("anne")
        (entry,) = record.facts["kept"]
        (other,) = record.facts["dropped"]
        assert entry["similarity"] >= other["similarity"]
        kept.append((Path(entry["file"]).name, names))
    assert kept[0][1].index(kept[0][0]) == kept[1][1].index(kept[1][0])


def test_too_few_images_drop_the_person_and_an_unreadable_one_is_named(tmp_path):
    config = generated(tmp_path, {name: GOOD[name] for name in ("000.png", "001.png")} | {"x.png": GOOD["002.png"]})
    (tmp_path / "generate" / "anne" / "x.png").write_bytes(b"not a image")
    run_stage(FILTER, config)
    record = Manifest(config.stage("filter")).read("anne")
    assert record.status == "dropped"
    assert record.reason == "2 of 3 images are left, at least 3 are needed: 1 × unreadable"
    assert "x.png is no image" in record.facts["dropped"][0]["reason"]


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
    assert "is 7 wide" in record.reason


def test_the_histograms_show_every_threshold(filtered):
    config, _ = filtered
    sheet = np.asarray(Image.open(config.stage("filter") / "histograms.png"))
    width, height = (int(DOTS_PER_INCH * side) for side in HISTOGRAM_PANEL)
    assert sheet.shape[:2] == (2 * height, 3 * width)
    line = (sheet[..., :3] == [int(THRESHOLD[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
    for row in range(2):
        for column in range(3):
            panel = line[row * height : (row + 1) * height, column * width : (column + 1) * width]
            assert panel.sum(0).max() > 100, (row, column)  # a vertical line
    assert len(list(config.stage("filter").iterdir())) == 2


def test_every_failed_threshold_is_listed():
    bad = FaceMeasurements(faces=2, side=10.0, sharpness=1.0, similarity=0.0, yaw=-80.0, pitch=70.0, quarter_turns=3)
    assert list(failed_thresholds(bad, THRESHOLDS)) == [
        "several faces", "small face", "blurred", "unlike the person", "not upright", "turned", "nodding",
    ]  # fmt: skip
    assert failed_thresholds(FaceMeasurements(1, 40, 130, 0.6, -50, 40), THRESHOLDS) == {}


@pytest.mark.parametrize(
    ("change", "differs"),
    [({"min_face": 41}, "filter.min_face was 40, is 41"), ({"max_yaw": 9.0}, "filter.max_yaw was 50.0, is 9.0")],
)
def test_other_thresholds_filter_again(filtered, change, differs):
    config, _ = filtered
    assert compare(FILTER, config).stale == {}
    assert dict(compare(FILTER, replace(config, filter=replace(THRESHOLDS, **change))).changes) == {differs: 1}


def test_a_face_whose_embedding_is_not_finite_is_no_good_image(tmp_path, monkeypatch):
    """NaN is below no threshold."""
    config = generated(tmp_path, {"000.png": GOOD["000.png"]})
    found = replace(largest_face(open_faces(FACES), GOOD["000.png"], ""), embedding=torch.full((512,), torch.nan))
    monkeypatch.setattr(filter_stage, "largest_face", lambda *_: found)
    run_stage(FILTER, replace(config, filter=replace(THRESHOLDS, min_images=1)))
    record = Manifest(config.stage("filter")).read("anne")
    assert record.status == "dropped"
    assert record.facts["dropped"][0]["reason"] == "the recognizer gave an embedding that is zero or not finite"
