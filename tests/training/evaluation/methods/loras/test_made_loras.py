"""Methods that make a LoRA of a person, in the miniature: DreamBooth, DiffLoRA, teachers through the autoencoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difflora_core.config import RefinementSettings
from difflora_core.lora.file_formats import read_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluation import prepare_evaluation
from miniature.personal.teachers import CONFIG
from tests.training.evaluation.prepared_settings import run_evaluation, settings_in
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.settings import EvaluationSettings

NAME = "person_07000"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("made")
    prepare_evaluation(folder, find_tokenizer(), (7000,))
    (folder / "prompts.yaml").write_text("clothing: ['a portrait of a {person}, red shirt, white background']\n")
    training = replace(CONFIG, steps=40)
    teacher = folder / "teachers" / f"{NAME}.safetensors"
    methods = {
        "no LoRA": MethodSettings("none"),
        "face only": MethodSettings("difflora", DIFFLORA_CHECKPOINT, mode="face"),
        "refined": MethodSettings(
            "difflora",
            DIFFLORA_CHECKPOINT,
            mode="face",
            refinement=RefinementSettings(steps=4),
            caption="a portrait of a {person}",
        ),
        "trained": MethodSettings("dreambooth", training=training, caption="a portrait of a {person}"),
        "LAE": MethodSettings("lora", folder / "teachers", checkpoint=DIFFLORA_CHECKPOINT),
        "one for all": MethodSettings("lora", teacher),
        "positive side": MethodSettings("difflora", DIFFLORA_CHECKPOINT, mode="face", side="positive"),
    }
    return settings_in(
        folder,
        methods=methods,
        compared_with="no LoRA",
        steps=8,
    )


@pytest.fixture(scope="module")
def report(settings: EvaluationSettings) -> dict[str, Any]:
    return run_evaluation(settings)


def test_each_makes_images_of_the_person(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    found = report["metrics"]["Face Sim"]["columns"]["Face Sim, other images"]["methods"]
    assert not report["failures"]
    for name in settings.methods:
        if name != "no LoRA":
            assert found[name]["difference"]["mean"] > 0.2, name
    costs = {name: method["cost"] for name, method in report["methods"].items()}
    assert (
        costs["trained"]["ready_seconds"] > costs["refined"]["ready_seconds"] > costs["face only"]["ready_seconds"] > 0
    )
    assert costs["LAE"]["ready_seconds"] is None
    assert "MIF in mode face" in report["methods"]["face only"]["placement"]
    assert "MIF in mode face; side positive: the LoRA acts" in report["methods"]["positive side"]["placement"]
    assert 'with the caption "a portrait of a person", 4 steps' in report["methods"]["refined"]["placement"]
    assert '"a portrait of a person", rank 4, 40 steps' in report["methods"]["trained"]["placement"]


def test_files_hold_what_the_methods_say(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    loras = settings.output / "loras"
    teacher = read_lora(settings.people.parent / "teachers" / f"{NAME}.safetensors", model.layout)
    decoded = read_lora(loras / "LAE" / f"{NAME}.safetensors", model.layout)
    assert torch.allclose(decoded, model.decode(model.encode(teacher[None]))[0], atol=1e-6)
    references = sorted((settings.people / NAME / "references").iterdir())
    lora = model.personalize(references, generator=torch.Generator().manual_seed(0), mode="face")
    assert torch.equal(read_lora(loras / "face only" / f"{NAME}.safetensors", model.layout), lora.flat)
    assert torch.equal(read_lora(loras / "positive side" / f"{NAME}.safetensors", model.layout), lora.flat)
    both, positive = (settings.output / "images" / name / NAME / "01_0.png" for name in ("face only", "positive side"))
    assert both.read_bytes() != positive.read_bytes()
    refined = read_lora(loras / "refined" / f"{NAME}.safetensors", model.layout)
    assert 0.0 < (refined - lora.flat).norm() < 0.5 * lora.flat.norm()


def test_a_lora_is_not_made_again_for_a_missing_image(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    file: Path = settings.output / "loras" / "trained" / f"{NAME}.safetensors"
    image = settings.output / "images" / "trained" / NAME / "01_0.png"
    before, content = file.stat().st_mtime_ns, image.read_bytes()
    image.unlink()
    again = run_evaluation(settings)["methods"]["trained"]["cost"]
    assert file.stat().st_mtime_ns == before
    assert image.read_bytes() == content
    assert again["ready_seconds"] == report["methods"]["trained"]["cost"]["ready_seconds"]


def test_other_training_is_noticed(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    own = settings.methods["trained"]
    methods = {"trained": replace(own, training=replace(own.training, steps=20, people=1))}
    lines = "\n".join(Evaluation(replace(settings, methods=methods, compared_with=""), "cpu").describe())
    assert "are made again: method.training.steps was 40, is 20" in lines
    assert "people" not in lines.split("again: ")[1]


def test_another_refinement_is_noticed(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    own = settings.methods["refined"]
    methods = {"refined": replace(own, refinement=RefinementSettings(steps=5))}
    lines = "\n".join(Evaluation(replace(settings, methods=methods, compared_with=""), "cpu").describe())
    assert "are made again: method.refinement.steps was 4, is 5" in lines
    with pytest.raises(ValueError, match="refinement is set, but a method of the kind lora does not use it"):
        MethodSettings("lora", DIFFLORA_CHECKPOINT, refinement=RefinementSettings())


def test_class_images_are_not_made_here() -> None:
    with pytest.raises(ValueError, match=r"training\.prior_weight is set"):
        MethodSettings("dreambooth", training=replace(CONFIG, prior_weight=1.0))
