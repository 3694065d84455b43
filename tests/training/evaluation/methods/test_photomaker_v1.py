"""PhotoMaker as a method, with an identity encoder and a LoRA of random weights in the official file's layout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.images import read_image
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.comfyui.host import find_tokenizer
from miniature.encoders.photomaker import initial_encoder
from miniature.paths import WEIGHTS
from miniature.personal.evaluation import judge_source, prepare_evaluation
from tests.training.evaluation.prepared_settings import settings_in
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.photomaker.photomaker_file import official_lora_names, write_photomaker


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("photomaker")
    prepare_evaluation(folder, find_tokenizer(), (7000, 7001))
    layout, encoder = LoRALayout.from_config(base_config.UNET, 2), initial_encoder(WEIGHTS)
    with torch.no_grad():
        encoder.fuse_module.mlp1.fc2.weight.mul_(20.0)
        encoder.fuse_module.layer_norm.weight.fill_(1.0)
    flat = 0.05 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(1))
    write_photomaker(folder / "random.bin", encoder, official_lora_names(flat, layout))
    (folder / "prompts.yaml").write_text("clothing: ['a portrait of a {person}, red shirt, white background']\n")
    method = MethodSettings(
        "photomaker",
        folder / "random.bin",
        references=2,
        face_models=WEIGHTS / "insightface",
        face_pack="miniature",
        style_strength=0,
    )
    return settings_in(
        folder,
        methods={"no LoRA": MethodSettings("none"), "PhotoMaker v1": method},
        compared_with="",
        steps=2,
    )


def test_photomaker_is_a_method(settings: EvaluationSettings) -> None:
    text = Evaluation(settings, "cpu", [judge_source()]).run().read_text()
    folder = settings.output / "images" / "PhotoMaker v1"
    ann, bob = (read_image(folder / person / "01_0.png") for person in ("person_07000", "person_07001"))
    assert ann.size == (128, 128)
    assert ann.tobytes() != bob.tobytes(), "the identity has no effect"
    assert "its embedding fused with the references" in text
    again = replace(settings, methods={"PhotoMaker v1": replace(settings.methods["PhotoMaker v1"], style_strength=50)})
    assert any("method.style_strength was 0, is 50" in line for line in Evaluation(again, "cpu").describe())
    other_faces = {"PhotoMaker v1": replace(settings.methods["PhotoMaker v1"], face_models=settings.people)}
    again = Evaluation(replace(settings, methods=other_faces, compared_with=""), "cpu")
    assert any("other face models" in line for line in again.describe())


def test_too_few_references_are_an_error(settings: EvaluationSettings) -> None:
    methods = {"PhotoMaker v1": replace(settings.methods["PhotoMaker v1"], references=9)}
    with pytest.raises(ValueError, match=r"method PhotoMaker v1: person_07000 has 3 reference images, .* needs 9"):
        Evaluation(replace(settings, methods=methods), "cpu")


def test_a_missing_file_is_named(settings: EvaluationSettings, tmp_path: Path) -> None:
    methods = {"PhotoMaker v1": replace(settings.methods["PhotoMaker v1"], path=tmp_path / "none.bin")}
    with pytest.raises(FileNotFoundError, match=r"method PhotoMaker v1: there is no PhotoMaker file .*none\.bin"):
        Evaluation(replace(settings, methods=methods), "cpu")
