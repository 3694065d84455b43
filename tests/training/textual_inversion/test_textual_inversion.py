"""Textual Inversion in the miniature, and as a method of the evaluation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difflora_core.files import read_tensors
from difflora_core.images import read_image
from miniature.base_model.config import LATENT_SHAPE
from miniature.comfyui.host import find_tokenizer
from miniature.personal.evaluation import prepare_evaluation
from tests.training.evaluation.prepared_settings import run_evaluation, settings_in
from training.base_model.diffusion_loss import DiffusionLoss
from training.base_model.person_images import PersonImages
from training.base_model.sdxl import SDXLBase
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods import learned_token
from training.evaluation.settings import EvaluationSettings, MetricSettings
from training.textual_inversion.config import TextualInversionConfig
from training.textual_inversion.train import train_token

NAMES = ("person_07000", "person_07001")
CAPTIONS = ("a portrait of a {person}", "a portrait of a {person}, smiling")
TRAINING = TextualInversionConfig(
    vectors=2, steps=12, learning_rate=0.02, captions=CAPTIONS, gradient_checkpointing=False
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    folder = tmp_path_factory.mktemp("inverted")
    prepare_evaluation(folder, find_tokenizer(), (7000, 7001))
    (folder / "prompts.yaml").write_text("clothing: ['a portrait of a {person}, red shirt, white background']\n")
    methods = {
        "no LoRA": MethodSettings("none"),
        "inverted": MethodSettings("textual_inversion", textual_inversion=TRAINING),
    }
    return settings_in(
        folder,
        methods=methods,
        metrics=MetricSettings(),
        compared_with="no LoRA",
        steps=2,
    )


@pytest.fixture(scope="module")
def report(settings: EvaluationSettings) -> dict[str, Any]:
    return run_evaluation(settings)


def test_a_token_is_a_row(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    assert not report["failures"]
    method = report["methods"]["inverted"]
    assert method["cost"]["ready_seconds"] > 0
    assert method["cost"]["parameters"] == 2 * (32 + 64)
    assert 'such as "a portrait of a {person}"' in method["placement"]
    images = settings.output / "images"
    ann, bob, nobody = (
        read_image(images / method / person / "01_0.png").tobytes()
        for method, person in (("inverted", NAMES[0]), ("inverted", NAMES[1]), ("no LoRA", NAMES[0]))
    )
    assert len({ann, bob, nobody}) == 3


def test_the_file_is_the_usual_one(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    tensors, _ = read_tensors(settings.output / "embeddings" / "inverted" / f"{NAMES[0]}.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"clip_l": (2, 32), "clip_g": (2, 64)}


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    settings: EvaluationSettings, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    again = replace(settings, output=tmp_path)

    def interrupted(base: Any, name: str, *arguments: Any) -> Any:
        if name == NAMES[1]:
            raise KeyboardInterrupt
        return train_token(base, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(learned_token, "train_token", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Evaluation(again, "cpu").run()
    first = tmp_path / "embeddings" / "inverted" / f"{NAMES[0]}.safetensors"
    before = first.stat().st_mtime_ns
    Evaluation(again, "cpu").run()
    assert first.stat().st_mtime_ns == before
    for name in NAMES:
        one, other = (
            read_tensors(folder / "embeddings" / "inverted" / f"{name}.safetensors")[0]
            for folder in (settings.output, tmp_path)
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_is_that_of_the_whole_table(settings: EvaluationSettings, report: dict[str, Any]) -> None:
    """Two steps by hand, as diffusers' example does them: rows of the encoders' tables, their other rows put back."""
    training = replace(TRAINING, vectors=1, steps=2, weight_decay=0.0)
    base = SDXLBase.open(settings.base)
    latents = torch.randn(3, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    found = train_token(base, "ann", latents, 128, "person", training)
    tables = {}
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = (
            getattr(base.pipeline, f"text_encoder{suffix}"),
            getattr(base.pipeline, f"tokenizer{suffix}"),
        )
        start = base.word_vectors("person")[name]
        base.pipeline.load_textual_inversion(start, token="<hers>", text_encoder=encoder, tokenizer=tokenizer)
        tables[name] = encoder.get_input_embeddings().requires_grad_().weight
    texts = [caption.replace("{person}", "<hers>") for caption in CAPTIONS]
    images = PersonImages.complete("ann", latents.repeat_interleave(2, 0), torch.arange(2).repeat(3))
    optimizer = torch.optim.AdamW(tables.values(), lr=training.learning_rate, weight_decay=0.0)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        table = base.encode_text(texts)
        return base.predict(noisy, timesteps, {name: tensor[rows] for name, tensor in table.items()}, 128)

    loss = DiffusionLoss(predict, base.scheduler(), [images], training.images_per_step, training.seed)
    for step in range(training.steps):
        optimizer.zero_grad()
        loss(step).sum().backward()
        kept = {name: table.detach().clone() for name, table in tables.items()}
        optimizer.step()
        with torch.no_grad():
            for name, table in tables.items():
                table[:-1] = kept[name][:-1]
    for name, table in tables.items():
        assert torch.allclose(found[name][0], table[-1].detach(), atol=1e-4), name


def test_what_is_refused(settings: EvaluationSettings) -> None:
    with pytest.raises(ValueError, match=r"captions is \['a portrait'\]"):
        TextualInversionConfig(captions=("a portrait",))
    with pytest.raises(ValueError, match="the learned token alone stands"):
        MethodSettings("textual_inversion", subject="a person")
    other = replace(settings, class_word="young person")
    with pytest.raises(ValueError, match="'young person' is 2 tokens"):
        train_token(SDXLBase.open(other.base), "ann", torch.zeros(1, *LATENT_SHAPE), 128, other.class_word, TRAINING)
