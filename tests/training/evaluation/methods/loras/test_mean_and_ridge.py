"""The mean of training people's LoRAs, and ridge regression from the face, on a store of made-up people."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from difflora_core.denoiser.mif import mean_embedding
from difflora_core.images import read_image
from difflora_core.lora.file_formats import read_lora, save_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.evaluation import prepare_evaluation
from tests.training.evaluation.prepared_settings import run_evaluation, settings_in
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.loras.ridge_regression import PENALTIES, RidgeRegression, choose_penalty
from training.evaluation.settings import EvaluationSettings, MetricSettings
from training.people.embeddings import EmbeddingCache, ImageEmbeddings, write_embeddings
from training.store.lora_store import LoRAStore

NAMES = ("person_07000", "person_07001")
PEOPLE = {"train": range(12), "validation": range(12, 16)}
IMAGES = 4


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("averaged")
    prepare_evaluation(folder, find_tokenizer(), (7000, 7001))
    (folder / "prompts.yaml").write_text("clothing: ['a portrait of a {person}, red shirt, white background']\n")
    model, generator = DiffLoRA.load(DIFFLORA_CHECKPOINT), torch.Generator().manual_seed(0)
    shape = (16, model.config.dit.tokens, model.config.dit.latent_width)
    loras = model.decode(torch.randn(shape, generator=generator))
    store, embeddings = LoRAStore(folder / "store", model.layout), {}
    for split, people in PEOPLE.items():
        store.add(split, list(people), loras[people.start : people.stop])
    for person in range(16):
        face = torch.randn(IMAGES, model.config.mif.face_width, generator=generator)
        embeddings[str(person)] = ImageEmbeddings(face, torch.ones(IMAGES, model.config.mif.image_width))
    write_embeddings(folder / "embeddings" / "all.safetensors", embeddings, model.config.encoders)
    for person in range(3):
        save_lora(folder / "files" / f"{person}.safetensors", loras[person], model.layout)
    ridge = MethodSettings(
        "ridge",
        DIFFLORA_CHECKPOINT,
        stores=(folder / "store",),
        embeddings=(folder / "embeddings",),
    )
    return settings_in(
        folder,
        methods={
            "no LoRA": MethodSettings("none"),
            "mean": MethodSettings("mean_lora", folder / "store"),
            "mean of files": MethodSettings("mean_lora", folder / "files"),
            "ridge": ridge,
        },
        metrics=MetricSettings(),
        compared_with="no LoRA",
        steps=2,
    )


@pytest.fixture(scope="module")
def costs(settings: EvaluationSettings) -> dict[str, dict]:
    report = run_evaluation(settings)
    assert not report["failures"]
    return {name: method["cost"] for name, method in report["methods"].items()}


def test_the_mean_is_one_lora_for_all(settings: EvaluationSettings, costs: dict[str, dict]) -> None:
    layout = DiffLoRA.load(DIFFLORA_CHECKPOINT).layout
    loras = LoRAStore.open(settings.people.parent / "store").read("train")[0]
    for name, expected in (("mean", loras.mean(0)), ("mean of files", loras[:3].mean(0))):
        (file,) = (settings.output / "loras" / name).iterdir()
        assert torch.allclose(read_lora(file, layout), expected, atol=1e-7)
        ann, bob = (read_image(settings.output / "images" / name / person / "01_0.png") for person in NAMES)
        assert ann.tobytes() == bob.tobytes()
    assert costs["mean"]["parameters"] == layout.numel
    assert costs["mean"]["ready_seconds"] is None


def test_the_ridge_regression_equals_least_squares(settings: EvaluationSettings, costs: dict[str, dict]) -> None:
    """Penalized least squares by hand: the penalty's square root times the unit matrix as further people."""
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    people = EmbeddingCache.open(settings.people.parent / "embeddings").people
    faces = torch.cat([mean_embedding(people[str(person)].face) for person in PEOPLE["train"]]).double().numpy()
    loras = LoRAStore.open(settings.people.parent / "store").read("train")[0]
    with torch.no_grad():
        latents = model.lae.encode(loras).flatten(1).double().numpy()
    file = settings.output / "loras" / "ridge" / f"{NAMES[0]}.safetensors"
    references = [np.asarray(read_image(p)) for p in sorted((settings.people / NAMES[0] / "references").iterdir())]
    query = mean_embedding(model.encoders.face(model.device, None).encode(references)).double().numpy()
    found = read_lora(file, model.layout)
    errors = []
    for penalty in PENALTIES:
        rows = np.concatenate([faces - faces.mean(0), penalty**0.5 * np.eye(faces.shape[1])])
        targets = np.concatenate([latents - latents.mean(0), np.zeros((faces.shape[1], latents.shape[1]))])
        weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
        latent = torch.from_numpy((query - faces.mean(0)) @ weights + latents.mean(0)).float()
        decoded = model.decode(latent.view(1, model.config.dit.tokens, -1))[0]
        errors.append(float((decoded - found).abs().max() / found.abs().max()))
    assert min(errors) < 1e-4
    assert costs["ridge"]["ready_seconds"] > 0


def test_the_penalty_is_chosen_on_others() -> None:
    """Without noise the smallest, with noise alone the largest."""
    generator = torch.Generator().manual_seed(0)
    x, others = torch.randn(40, 5, generator=generator), torch.randn(200, 5, generator=generator)
    true = torch.randn(5, 3, generator=generator)
    assert choose_penalty(x, x @ true, others, others @ true) == PENALTIES[0]
    noise = torch.randn(40, 3, generator=generator)
    assert choose_penalty(x, noise, others, torch.zeros(200, 3)) == PENALTIES[-1]
    assert torch.allclose(RidgeRegression.fit(x, x @ true, 1e-6).predict(others), others @ true, atol=1e-4)


def test_what_is_missing_is_named(settings: EvaluationSettings, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"method mean: .* holds no store .* and no LoRA files"):
        Evaluation(replace(settings, methods={"mean": MethodSettings("mean_lora", tmp_path)}, compared_with=""), "cpu")
    ridge = replace(settings.methods["ridge"], embeddings=(tmp_path,))
    with pytest.raises(FileNotFoundError, match=r"method ridge: .* holds no embeddings"):
        Evaluation(replace(settings, methods={"ridge": ridge}, compared_with=""), "cpu")
    with pytest.raises(ValueError, match="ridge needs stores and embeddings"):
        MethodSettings("ridge", DIFFLORA_CHECKPOINT)
