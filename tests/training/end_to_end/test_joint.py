"""Joint training: MIF, DiT and LAE learn from images alone, into an ordinary checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.lae_file import save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.config import EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_tokenizer
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_SCENES, caption
from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images
from training.base_model.held_out_loss import held_out_losses
from training.dreambooth.train import shared_start
from training.end_to_end.config import JointTraining
from training.end_to_end.joint_command import dry_run, train
from training.end_to_end.joint_objective import JointNetwork, JointObjective
from training.end_to_end.settings import JointSettings
from training.engine.config import TrainConfig
from training.engine.loop import train as train_loop
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.preprocess import PREPROCESS
from training.people.conditions import Conditions
from training.people.config import EmbeddingSettings
from training.people.network_settings import DiTSettings

LOOP = TrainConfig(steps=60, learning_rate=1e-2, warmup=2, ema=0.5, unused_parameters=True)
SHAPE = LAEConfig(tokens=2, width=3, chunk=10, channels=4, hidden=8, tied=True)
PEOPLE = 12


@pytest.fixture
def colors() -> Tensor:
    return torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def network() -> JointNetwork:
    torch.manual_seed(0)
    lae = LAE(LAYOUT, SHAPE)
    lae.start_without_loras(shared_start(LAYOUT), 0.1, torch.Generator().manual_seed(0))
    return JointNetwork(Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8)), lae)


def objective_of(network: JointNetwork, colors: Tensor, **settings) -> JointObjective:
    face = colors[:, None].repeat(1, 3, 1)
    images = [person_images(f"{i}", color) for i, color in enumerate(colors)]
    config = JointTraining(LOOP, people=6, max_references=3, **settings)
    return JointObjective(network, Conditions(face, face), images, diffusion_loss(base_model()), config)


def test_people_get_loras_that_fit_their_images(tmp_path, network, colors):
    objective = objective_of(network, colors)

    @torch.no_grad()
    def evaluate() -> Tensor:
        noise = torch.randn(PEOPLE, 2, 3, generator=torch.Generator().manual_seed(9))
        face = objective.conditions.face[:, 0]
        null = torch.zeros(PEOPLE, dtype=torch.bool)
        latents = network.denoiser(noise, torch.full((PEOPLE,), 999), face, face, null)
        return held_out_losses(objective.diffusion_loss, network.lae.decode(latents), objective.images).mean()

    before = evaluate()
    train_loop(network, objective, LOOP, tmp_path, "joint")
    assert evaluate() < 0.9 * before


def test_the_encoder_finds_the_latents_of_predicted_loras(tmp_path, network, colors):
    train_loop(network, objective_of(network, colors, encoding_weight=1.0), LOOP, tmp_path, "joint")
    latents = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network.lae.encode(network.lae.decode(latents))
    assert (found - latents).square().mean() < 0.3  # of 1


def test_the_encoders_loss_does_not_move_predictions(network, colors):
    """Through an untied LAE: a tied one shares its weights."""
    torch.manual_seed(0)
    lae = LAE(LAYOUT, replace(SHAPE, tied=False))
    lae.start_without_loras(shared_start(LAYOUT), 0.1, torch.Generator().manual_seed(0))
    objectives = [objective_of(JointNetwork(network.denoiser, lae), colors, encoding_weight=w) for w in (0.0, 1.0)]
    gradients = []
    for objective in objectives:
        objective.lae.zero_grad()
        objective(JointNetwork(network.denoiser, lae), 0, torch.Generator().manual_seed(0))[0].backward()
        gradients.append(objective.lae.network.group_decoder.weight.grad.clone())
    assert torch.equal(*gradients)


def test_batches_have_no_more_people_than_there_are(network, colors):
    with pytest.raises(ValueError, match="6 people, found only 5"):
        objective_of(network, colors[:5])


def test_every_person_has_images(network, colors):
    objective = objective_of(network, colors)
    with pytest.raises(ValueError, match="images of 11 people and embeddings of 12"):
        JointObjective(network, objective.conditions, objective.images[1:], objective.diffusion_loss, objective.config)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> JointSettings:
    """Four people with three images each, on the miniature's base model and encoders."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("joint")
    export_diffusers(WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors", folder / "base", find_tokenizer())
    (folder / "dataset.yaml").write_text(
        f"workspace: work\nbase: base\nfaces: {{pack: miniature, root: {WEIGHTS / 'insightface'}}}\n"
        "preprocess: {size: 128, held_out: 1}\npack: {validation: 0.4, test: 0.0}\n"
        "dreambooth: {dtype: fp32, feed_forward: true}\n"
    )
    config = load_config(folder / "dataset.yaml")
    for index in range(20, 24):
        images = []
        for place, scene in enumerate(TEACHER_SCENES[:3]):
            path = config.workspace / "generate" / f"{index}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person(index), scene).image).save(path)
            images.append({"file": path.relative_to(config.workspace).as_posix(), "caption": caption(scene)})
        Manifest(config.stage("generate")).write(Record(f"{index}", facts={"images": images}))
        Manifest(config.stage("filter")).write(Record(f"{index}", facts={"kept": images}))
    run_stage(PREPROCESS, config)
    loop = TrainConfig(steps=2, learning_rate=1e-3, warmup=0, ema=0.0, unused_parameters=True)
    return JointSettings(
        folder / "out",
        EncoderNames("miniature", "miniature"),
        EmbeddingSettings(dataset=folder / "dataset.yaml", image_encoder=WEIGHTS / "clip_vision" / "miniature"),
        lae=LAEConfig(tokens=2, width=8, chunk=2048, channels=4, tied=True),
        dit=DiTSettings("miniature", layers=1),
        training=JointTraining(loop, people=2),
    )


def test_images_become_a_checkpoint(settings: JointSettings, capsys: pytest.CaptureFixture) -> None:
    model = DiffLoRA.load(train(settings))
    assert model.layout == lora_layout()
    assert model.config.encoders == settings.encoders
    assert list(model.config.provenance["history"]) == ["0", "2"]
    assert model.config.provenance["people"] + model.config.provenance["validation_people"] == 4
    image = draw(person(30), TEACHER_SCENES[0]).image
    models = {"face_root": WEIGHTS / "insightface", "image_encoder": WEIGHTS / "clip_vision" / "miniature"}
    assert model.personalize([image], **models).flat.isfinite().all()
    assert "step 2: loss_reduction" in capsys.readouterr().out


def test_a_dry_run_begins_with_arithmetic_and_writes_nothing(settings: JointSettings) -> None:
    elsewhere = replace(settings, output=settings.output.with_name("dry"))
    first, measured = dry_run(elsewhere)
    assert "2 people, 1 images of each" in first
    assert "steps/s" in measured
    assert "U-Net" in measured
    assert not elsewhere.output.exists()


def test_an_lae_of_few_teachers_can_be_the_start(settings: JointSettings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lae = LAE(lora_layout(), settings.lae)
    lae.fit(0.1 * torch.randn(20, lae.layout.numel))
    save_lae(tmp_path / "lae.safetensors", lae)
    model = DiffLoRA.load(train(replace(settings, network=tmp_path / "lae.safetensors", output=tmp_path / "out")))
    assert torch.allclose(model.lae.mean, lae.mean)


def test_a_split_without_people_is_named(settings: JointSettings, tmp_path: Path) -> None:
    dataset = settings.embeddings.dataset
    assert dataset is not None
    other = dataset.with_name("no_validation.yaml")
    other.write_text(dataset.read_text().replace("validation: 0.4", "validation: 0.0"))
    embeddings = replace(settings.embeddings, dataset=other)
    with pytest.raises(ValueError, match=r"none of 4 people .* 'validation': add people"):
        train(replace(settings, embeddings=embeddings, output=tmp_path / "out"))


def test_settings_that_need_teachers_are_refused(settings: JointSettings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="baselines are fitted to teachers"):
        replace(settings, lae=LAEConfig(kind="linear"))
    with pytest.raises(ValueError, match="expected `dataset`"):
        replace(settings, embeddings=EmbeddingSettings(cache=(tmp_path,)))
