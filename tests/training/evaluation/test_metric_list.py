"""All metrics of the settings with small models of random weights, through the whole evaluation."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.evaluation.small_evaluation import Brightness, SmallEvaluation
from tests.training.evaluation.small_models import write_clip, write_dino, write_image_reward
from training.evaluation import evaluation_run
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.metric_list import MetricSource, metric_sources, missing_models
from training.evaluation.settings import MetricSettings


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_clip(folder / "pick", seed=1)
    write_dino(folder / "dino")
    write_image_reward(folder / "reward")
    return folder


@pytest.fixture
def metrics(models: Path) -> MetricSettings:
    names = {name: str(models / name) for name in ("clip", "dino", "reward", "pick")}
    return MetricSettings(
        clip=(names["clip"],), dino=names["dino"], image_reward=names["reward"], pick_score=names["pick"]
    )


def test_every_metric_is_in_the_report(small: SmallEvaluation, metrics: MetricSettings) -> None:
    small.write_prompts(clothing=["a photo of a {person}"], view=["a {person}, in a red hat"])
    path = small.evaluation(metrics=metrics).run()
    found = small.report()["metrics"]
    assert list(found) == ["CLIP clip", "DINO dino", "ImageReward reward", "PickScore pick", "brightness"]
    for metric in found.values():
        assert metric["model"]
        assert metric["preprocessing"]
        for column in metric["columns"].values():
            assert column["methods"]["own"]["value"]["n"] == 3
    page = path.read_text()
    assert "CLIP-T" in page
    assert "<circle" in page, "likeness against prompt fidelity"


def test_a_changed_model_is_measured_again(small: SmallEvaluation, metrics: MetricSettings, tmp_path: Path) -> None:
    assert metrics.dino is not None
    shutil.copytree(metrics.dino, tmp_path / "dino")
    metrics = MetricSettings(dino=str(tmp_path / "dino"))
    small.evaluation(metrics=metrics).run()
    before = small.report()["metrics"]["DINO dino"]["columns"]
    scores = small.folder / "output" / "scores"
    times = {path: path.stat().st_mtime_ns for path in scores.rglob("*.json")}
    path = tmp_path / "dino" / "config.json"
    path.write_text(path.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-1'))
    small.evaluation(metrics=metrics).run()
    assert small.report()["metrics"]["DINO dino"]["columns"] != before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {path for path in times if "dino" in path.relative_to(scores).parts[0]}


def test_changed_code_measures_again(small: SmallEvaluation, tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("first")
    source = MetricSource("brightness", Brightness, lambda: {"model": "1"}, tmp_path / "metric.py")

    def measured() -> set[int]:
        Evaluation(small.settings(), "cpu", [source]).run()
        return {path.stat().st_mtime_ns for path in (small.folder / "output" / "scores").rglob("*.json")}

    first = measured()
    assert measured() == first
    (tmp_path / "metric.py").write_text("second")
    assert not measured() & first


def test_missing_models_are_named(metrics: MetricSettings, tmp_path: Path) -> None:
    assert missing_models(metric_sources(metrics, "cpu")) == []
    gone = replace(metrics, clip=("no/such-model",), image_reward=str(tmp_path))
    lines = missing_models(metric_sources(gone, "cpu"))
    assert len(lines) == 2
    assert "the model of CLIP is missing: no/such-model" in lines[0]
    assert "ImageReward" in lines[1]
    assert str(tmp_path) in lines[1]


def test_models_of_one_name_are_refused(metrics: MetricSettings, tmp_path: Path) -> None:
    twice = replace(metrics, clip=(*metrics.clip, str(tmp_path / "clip")))
    with pytest.raises(ValueError, match="two models are called 'CLIP clip'"):
        metric_sources(twice, "cpu")


def test_an_image_that_can_not_be_measured_is_named(
    small: SmallEvaluation, metrics: MetricSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.evaluation().run()
    monkeypatch.setattr(evaluation_run, "unreadable_images", lambda people: ())  # as if it broke after that check
    (small.folder / "people" / "bob" / "others" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"DINO dino: none, bob: .*other image 1 of 1"):
        small.evaluation(metrics=MetricSettings(dino=metrics.dino)).run()
