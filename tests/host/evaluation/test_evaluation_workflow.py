"""A node pack is a method of the evaluation by its own workflow, on a real ComfyUI: here our own pack."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import find_tokenizer
from miniature.personal.evaluation import judge_source, prepare_evaluation
from tests.training.evaluation.prepared_settings import settings_in
from training.comfyui_client import Client
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.settings import EvaluationSettings

PEOPLE = (7000, 7001)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, client: Client, workflow: ApiPrompt) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("evaluation")
    prepare_evaluation(folder, find_tokenizer(), PEOPLE)
    prompts = "clothing: ['a portrait of a {person}, red shirt, white background']\n"
    (folder / "prompts.yaml").write_text(prompts)
    graph = workflow.copy()
    for number, name in enumerate(("{reference}", "{reference_2}", "{reference_3}"), start=1):
        graph.set(f"Your picture {number}", image=name)
    graph.set("Your prompt", text="{prompt}").set("Negative prompt", text="{negative}").set("KSampler", seed="{seed}")
    (folder / "workflow.json").write_text(json.dumps(graph.only("Save Image").prompt))
    return settings_in(
        folder,
        methods={"pack": MethodSettings("comfyui", folder / "workflow.json", server=client.url)},
        compared_with="",
    )


def test_a_workflow_is_a_method(settings: EvaluationSettings) -> None:
    path = Evaluation(settings, "cpu", [judge_source()]).run()
    values = json.loads(path.with_name("report.json").read_text())
    assert not values["failures"]
    faces = values["metrics"]["Face Sim"]["columns"]["Face Sim, other images"]["methods"]["pack"]
    assert min(faces["people"]) > 0.3
    assert values["methods"]["pack"]["cost"]["image_seconds"] > 0
    images = sorted((settings.output / "images" / "pack").rglob("*.png"))
    assert [image.parent.name for image in images] == ["person_07000", "person_07001"]
    assert images[0].read_bytes() != images[1].read_bytes()


def test_a_pack_that_is_not_installed_is_named(settings: EvaluationSettings, tmp_path: Path) -> None:
    nodes = json.loads((settings.output.parent / "workflow.json").read_text())
    next(iter(nodes.values()))["class_type"] = "NodeOfNobody"
    (tmp_path / "workflow.json").write_text(json.dumps(nodes))
    methods = {"pack": replace(settings.methods["pack"], path=tmp_path / "workflow.json")}
    evaluation = Evaluation(replace(settings, methods=methods, output=tmp_path / "output"), "cpu")
    with pytest.raises(RuntimeError, match="no node class NodeOfNobody; install the pack"):
        evaluation.run()
