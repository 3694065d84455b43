"""InstantID as a method, with random weights in the official layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.images import read_image, write_image
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from miniature.personal.evaluation import prepare_evaluation
from tests.training.evaluation.prepared_settings import run_evaluation, settings_in
from tests.training.instantid.random_instantid import random_instantid
from training.base_model.sdxl import SDXLBase
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.instant_id import InstantIDMethod, in_square
from training.evaluation.methods.shared_base import SharedBase
from training.evaluation.people_folders import EvaluatedPerson
from training.evaluation.settings import EvaluationSettings, MetricSettings
from training.instantid.instantid_files import ADAPTER, write_instantid

NAMES = ("person_07000", "person_07001")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("instantid")
    prepare_evaluation(folder, find_tokenizer(), (7000, 7001))
    (folder / "prompts.yaml").write_text("clothing: ['a portrait of a {person}, red shirt, white background']\n")
    write_instantid(folder / "files", random_instantid(SDXLBase.open(folder / "base").unet))
    method = MethodSettings("instantid", folder / "files", face_models=WEIGHTS / "insightface", face_pack="miniature")
    return settings_in(
        folder,
        methods={"no LoRA": MethodSettings("none"), "InstantID": method, "own pose": replace(method, pose="prompt")},
        metrics=MetricSettings(),
        compared_with="no LoRA",
        steps=8,
    )


def test_instantid_is_a_method(settings: EvaluationSettings) -> None:
    report = run_evaluation(settings)
    assert not report["failures"]
    images = {
        (method, name): read_image(settings.output / "images" / method / name / "01_0.png").tobytes()
        for method in settings.methods
        for name in NAMES
    }
    assert len(set(images.values())) == 5  # without a LoRA people have the same
    method = report["methods"]["InstantID"]
    assert method["cost"]["parameters"] == 512
    assert method["cost"]["ready_seconds"] > 0
    assert "adapter at 0.8, IdentityNet at 0.8; keypoints of the first reference" in method["placement"]
    assert "of the same prompt and noise" in report["methods"]["own pose"]["placement"]
    methods = {"InstantID": replace(settings.methods["InstantID"], adapter_scale=0.5)}
    again = Evaluation(replace(settings, methods=methods, compared_with=""), "cpu")
    assert any("method.adapter_scale was 0.8, is 0.5" in line for line in again.describe())
    other_faces = {"InstantID": replace(settings.methods["InstantID"], face_models=settings.people)}
    again = Evaluation(replace(settings, methods=other_faces, compared_with=""), "cpu")
    assert any("other face models" in line for line in again.describe())


def test_the_pose_is_the_references(settings: EvaluationSettings, tmp_path: Path) -> None:
    """A wide image: its center square is what the keypoints are of, though the face was found in all of it."""
    reference = read_image(settings.people / NAMES[0] / "references" / "00.png")
    wide = Image.new("RGB", (228, 128), (200, 200, 200))
    wide.paste(reference, (50, 0))
    write_image(tmp_path / "wide.png", wide)
    write_image(tmp_path / "square.png", reference)
    method = InstantIDMethod(SharedBase(settings, "cpu"), settings.methods["InstantID"], "person")
    one, other = (
        method._identity(EvaluatedPerson("ann", (tmp_path / name,), ())) for name in ("wide.png", "square.png")
    )
    assert torch.nn.functional.cosine_similarity(one[0], other[0], dim=0) > 0.9
    drawn = [np.argwhere((pose > 0).any(-1)) for _, pose in (one, other)]
    assert np.allclose(drawn[0].mean(0), drawn[1].mean(0), atol=2.0), "in the same place"
    assert np.allclose(drawn[0].std(0), drawn[1].std(0), rtol=0.25), "of the same size: the wide image has 228 pixels"
    assert np.allclose(in_square(np.array([[100.0, 30.0]]), (60, 200), 120), [[60.0, 60.0]])
    with pytest.raises(ValueError, match="outside its center square"):
        in_square(np.array([[5.0, 30.0]]), (60, 200), 120)


def test_an_image_without_a_face_has_the_references_pose(settings: EvaluationSettings) -> None:
    method = InstantIDMethod(SharedBase(settings, "cpu"), settings.methods["InstantID"], "person")
    otherwise = np.zeros((128, 128, 3), dtype=np.uint8)
    assert method.find_pose(np.full((128, 128, 3), 90, dtype=np.uint8), otherwise) is otherwise
    face = np.asarray(read_image(settings.people / NAMES[0] / "references" / "00.png"))
    assert method.find_pose(face, otherwise).any()


def test_missing_files_are_named_and_a_pickle_refused(settings: EvaluationSettings, tmp_path: Path) -> None:
    def evaluation() -> Evaluation:
        methods = {"InstantID": replace(settings.methods["InstantID"], path=tmp_path)}
        return Evaluation(replace(settings, methods=methods, compared_with=""), "cpu")

    with pytest.raises(FileNotFoundError, match=r"method InstantID: there is no .*ip-adapter\.safetensors"):
        evaluation()
    write_instantid(tmp_path, random_instantid(SDXLBase.open(settings.base).unet))
    (tmp_path / ADAPTER).rename(tmp_path / "ip-adapter.bin")
    with pytest.raises(ValueError, match=r"method InstantID: .*ip-adapter\.bin is a pickle"):
        evaluation()
    with pytest.raises(ValueError, match="face_models is missing: instantid needs InsightFace's antelopev2"):
        MethodSettings("instantid", tmp_path)
