"""`python -m miniature choose-baselines`: a tiny grid with few steps, and the choice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from miniature.comfyui.host import find_tokenizer
from miniature.personal.baselines import baseline_choice
from miniature.personal.baselines.baseline_choice import choose, grids, prepare_validation, settings_of
from miniature.personal.baselines.baseline_grid import BASELINES, Axis
from miniature.personal.evaluation import SETTINGS
from miniature.personal.teachers import teacher_people
from training.engine.settings import read_settings
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import EvaluationSettings

DREAMBOOTH, TOKEN = BASELINES[:2]
TINY = (
    replace(DREAMBOOTH, axes=(Axis("training.steps", "steps", (5,)), Axis("training.learning_rate", "rate", (0.001,)))),
    replace(
        TOKEN,
        axes=(Axis("textual_inversion.vectors", "vectors", (1, 4)), Axis("textual_inversion.steps", "steps", (2,))),
    ),
)


def test_a_choice_is_made_and_nothing_is_made_twice(tmp_path: Path) -> None:
    prepare_validation(tmp_path, find_tokenizer(), 2)
    validation = [f"person_{index:05d}" for index in teacher_people("validation")[:2]]
    assert sorted(path.name for path in (tmp_path / "people").iterdir()) == validation
    held_out = read_settings(EvaluationSettings, SETTINGS).prompts
    own = {prompt.template for prompt in read_prompt_list(tmp_path / "prompts.yaml")}
    assert own.isdisjoint(prompt.template for prompt in read_prompt_list(held_out))
    (tmp_path / "prompts.yaml").write_text(
        "complex: ['a portrait of a {person}, smiling, red shirt, white background']\n"
    )

    found = grids(TINY)
    settings = replace(settings_of(tmp_path, 2, [p for points in found.values() for p in points]), steps=2)
    told = choose(settings, found)
    assert [line.split(":")[0] for line in told[:2]] == ["DreamBooth", "Textual Inversion"]
    assert told[0].endswith("the evaluation has others")
    values = json.loads((tmp_path / "baselines.json").read_text("utf-8"))
    tried = values["baselines"]["Textual Inversion"]["settings"]
    assert [entry["values"] for entry in tried] == [
        {"textual_inversion.vectors": count, "textual_inversion.steps": 2} for count in (1, 4)
    ]
    assert all(entry["seconds"] > 0 and not entry["failed"] for entry in tried)
    assert values["people"] == validation
    assert "| vectors 4, steps 2 |" in (tmp_path / "baselines.md").read_text("utf-8")

    lines = list(Evaluation(settings, "cpu").describe())
    assert not [line for line in lines if "are to be made" in line and ": 0 of 2 images" not in line]


def test_files_that_are_not_built_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {
        name: replace(method, path=tmp_path / "gone") for name, method in baseline_choice.SCRATCH_METHODS.items()
    }
    monkeypatch.setattr(baseline_choice, "SCRATCH_METHODS", methods)
    assert [baseline.name for baseline in grids(BASELINES)] == ["DreamBooth", "Textual Inversion"]
    told = capsys.readouterr().out
    assert f"PhotoMaker v1 is left out: there is no {tmp_path / 'gone'}" in told
    assert "Run `python -m miniature build instantid`" in told


def test_people_are_validation_people(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 32 validation people, found 33"):
        prepare_validation(tmp_path, find_tokenizer(), 33)
