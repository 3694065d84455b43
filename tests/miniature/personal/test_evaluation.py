"""`python -m training evaluate` on shipped weights: two held-out people × two prompts, with DiffLoRA and teachers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from miniature.base_model.config import lora_layout
from miniature.comfyui.host import find_tokenizer
from miniature.measure.attribute_fidelity import scene_of
from miniature.personal import evaluation
from miniature.personal.evaluation import (
    SETTINGS,
    built_methods,
    built_metrics,
    framed,
    judge_source,
    prepare_evaluation,
    write_drawings,
)
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.scenes import VALIDATION_SCENES, Scene, caption
from tests.training.evaluation.prepared_settings import settings_in
from training.engine.settings import read_settings
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import EvaluationSettings, MetricSettings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("evaluation")
    prepare_evaluation(folder, find_tokenizer(), HeldOutTeachers.load().people[:2])
    prompts = "clothing: ['a portrait of a {person}, red shirt, white background']\n"
    prompts += "accessory: ['a portrait of a {person}, wearing a straw hat, blue shirt, pink background']\n"
    (folder / "prompts.yaml").write_text(prompts)
    shipped = read_settings(EvaluationSettings, SETTINGS)
    methods = {
        "DiffLoRA": replace(shipped.methods["DiffLoRA"], references=2),
        "teacher": MethodSettings("lora", folder / "teachers"),
    }
    return settings_in(
        folder,
        methods=methods,
        steps=8,
    )


def test_methods_are_compared_on_held_out_people(settings: EvaluationSettings) -> None:
    path = Evaluation(settings, "cpu", [judge_source()]).run()
    values = json_of(path.with_name("report.json"))
    faces = values["metrics"]["Face Sim"]["columns"]["Face Sim, other images"]["methods"]
    assert faces["DiffLoRA"]["value"]["n"] == faces["teacher"]["value"]["n"] == 2
    assert min(faces["DiffLoRA"]["people"]) > 0.3
    assert min(faces["teacher"]["people"]) > 0.3
    fidelity = values["metrics"]["prompt fidelity"]["columns"]["prompt fidelity"]["methods"]
    assert fidelity["DiffLoRA"]["value"]["mean"] > 0.7
    assert values["methods"]["DiffLoRA"]["cost"]["parameters"] == lora_layout().numel
    assert "DiffLoRA" in path.read_text()
    again = Evaluation(settings, "cpu", [judge_source()])
    assert "DiffLoRA: 0 of 4 images are to be made" in list(again.describe())
    again.run()
    assert json_of(path.with_name("report.json")) == values


def json_of(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_judge_understands_all_prompts() -> None:
    for prompt in read_prompt_list(read_settings(EvaluationSettings, SETTINGS).prompts):
        assert caption(scene_of(prompt.of("person"))).count(",") >= prompt.template.count(",")
    for scene in VALIDATION_SCENES:
        assert scene_of(caption(scene)) == scene
    with pytest.raises(ValueError, match="'purple shirt', which names nothing"):
        scene_of("a portrait of a person, purple shirt")


def test_methods_of_the_scratch_folder_are_rows_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    there, gone = MethodSettings("mean_lora", tmp_path / "there"), MethodSettings("mean_lora", tmp_path / "gone")
    monkeypatch.setattr(evaluation, "SCRATCH_METHODS", {"one": there, "two": gone})
    assert built_methods() == {"one": there}
    assert "two is left out" in capsys.readouterr().out


def test_metrics_of_the_scratch_folder_are_measured_where_their_networks_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("clip", "dino", "image_reward")}
    monkeypatch.setattr(evaluation, "SCRATCH_METRICS", folders)
    assert built_metrics(MetricSettings(), tmp_path / "drawings") == MetricSettings()
    assert capsys.readouterr().out.count("is left out") == 3
    for name in ("clip", "dino"):
        folders[name].mkdir()
    found = built_metrics(MetricSettings(), tmp_path / "drawings")
    assert (found.clip, found.dino) == ((str(folders["clip"]),), str(folders["dino"]))
    assert found.image_reward is None
    assert found.distances is not None
    assert (found.distances.reference, found.distances.dino) == (tmp_path / "drawings", True)
    assert "metrics.image_reward is left out" in capsys.readouterr().out


def test_real_images_are_drawn_as_prompts_say(tmp_path: Path) -> None:
    prompts = ("a portrait of a person, turned left, red shirt, dark background",)
    write_drawings(tmp_path, prompts, (0, 1))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*.png"))] == [
        "person_00000/00.png",
        "person_00001/00.png",
    ]
    scene = scene_of(prompts[0])
    first, second = (framed(scene, np.random.default_rng(seed)) for seed in (0, 1))
    assert caption(first) == caption(second) == prompts[0]
    assert first.yaw < -0.1
    assert first.shift_x != second.shift_x
    assert framed(Scene(), np.random.default_rng(0)).yaw == pytest.approx(0.0, abs=0.2)
