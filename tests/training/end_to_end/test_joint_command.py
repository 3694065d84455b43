"""`train-teacher-free`: a dataset's images in, a checkpoint out; and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.lae_file import save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.config import EncoderNames
from difflora_core.denoiser.mif import mean_embedding
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.paths import WEIGHTS
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_SCENES
from tests.training.end_to_end.drawn_dataset import write_drawn_dataset
from training.end_to_end.config import JointTraining
from training.end_to_end.joint_command import dry_run, train
from training.end_to_end.joint_inputs import JointInputs
from training.end_to_end.settings import JointSettings
from training.engine.config import TrainConfig
from training.lora_dataset.config import load_config
from training.people.config import EmbeddingSettings
from training.people.embeddings import EmbeddingCache
from training.people.network_settings import DiTSettings
from training.store.lora_store import LoRAStore

INDICES = (7000, 7001, 7002, 7005)
"""People with a shipped teacher, of whom the third is in the split validation."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, sdxl_folder: Path) -> JointSettings:
    """Four people with three images each, on the miniature's base model and encoders."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("joint")
    more = (
        f"faces: {{pack: miniature, root: {WEIGHTS / 'insightface'}}}\npack: {{validation: 0.4, test: 0.0}}\n"
        "dreambooth: {dtype: fp32, feed_forward: true}\n"
    )
    dataset = write_drawn_dataset(folder, sdxl_folder, INDICES, more)
    loop = TrainConfig(steps=2, learning_rate=1e-3, warmup=0, ema=0.0, unused_parameters=True)
    return JointSettings(
        folder / "out",
        EncoderNames("miniature", "miniature"),
        EmbeddingSettings(dataset=dataset, image_encoder=WEIGHTS / "clip_vision" / "miniature"),
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
    with pytest.raises(ValueError, match="belongs to a run with images_per_person"):
        train(replace(settings, images_per_person=settings.images_per_person + 1))


def test_the_seed_is_that_of_the_diffusion_loss_too(settings: JointSettings) -> None:
    training = replace(settings.training, loop=replace(settings.training.loop, seed=7))
    assert JointInputs.open(replace(settings, training=training), trackers=False).objective().diffusion_loss.seed == 7


def test_no_reference_is_an_image_that_the_loss_is_measured_on(settings: JointSettings) -> None:
    """Of each person three images are embedded, of which the last is held out; three references are wanted."""
    inputs = JointInputs.open(settings, trackers=False)
    assert settings.references == 3
    assert settings.embeddings.image_encoder is not None
    cache = EmbeddingCache.open(inputs.dataset.embeddings(settings.embeddings.image_encoder))
    for kind, found in zip(("face", "image"), inputs.references, strict=True):
        own = [getattr(cache.people[person], kind) for person in inputs.validation]
        assert all(len(embeddings) == 3 for embeddings in own)
        torch.testing.assert_close(found, torch.cat([mean_embedding(embeddings[:2]) for embeddings in own]))


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
    started = replace(settings, network=tmp_path / "lae.safetensors", output=tmp_path / "out")
    model = DiffLoRA.load(train(started))
    assert torch.allclose(model.lae.mean, lae.mean)
    with pytest.raises(ValueError, match=r"a run with starting LAE '\w+', the configuration says 'untrained'"):
        train(replace(started, network=None))


def test_a_run_is_not_resumed_from_another_start_or_base_model(settings: JointSettings, tmp_path: Path) -> None:
    train(settings)
    lae = LAE(lora_layout(), settings.lae)
    lae.fit(0.1 * torch.randn(20, lae.layout.numel))
    save_lae(tmp_path / "lae.safetensors", lae)
    with pytest.raises(ValueError, match=r"a run with starting LAE 'untrained', the configuration says '\w+'"):
        train(replace(settings, network=tmp_path / "lae.safetensors"))
    dataset = settings.embeddings.dataset
    assert dataset is not None
    base = shutil.copytree(load_config(dataset).base, tmp_path / "base")
    unet = next((base / "unet").glob("*.safetensors"))
    save_file({name: 1.05 * tensor for name, tensor in load_file(unet).items()}, unet)
    other = dataset.with_name("other_base.yaml")
    other.write_text(dataset.read_text().replace(f"base: {load_config(dataset).base}", f"base: {base}"))
    with pytest.raises(ValueError, match="belongs to a run with base model"):
        train(replace(settings, embeddings=replace(settings.embeddings, dataset=other)))


def test_teachers_of_a_store_are_beside(settings: JointSettings, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shipped = HeldOutTeachers.load()
    loras = shipped.teachers[[shipped.people.index(index) for index in INDICES]].float()
    store = LoRAStore(tmp_path / "store", lora_layout())
    store.add("train", ["7000", "7005", "elsewhere"], loras[[0, 3, 1]])
    store.add("validation", ["7002"], loras[2:3])
    training = replace(settings.training, people=3, teachers=2)
    beside = replace(settings, stores=(store.folder,), training=training, output=tmp_path / "out")
    model = DiffLoRA.load(train(beside))
    history = model.config.provenance["history"]
    assert [set(metrics) >= {"loss_reduction", "reconstruction_recovery"} for metrics in history.values()] == [True] * 2
    assert model.config.provenance["joint_training"]["teachers"] == 2
    told = capsys.readouterr().out
    assert (
        "2 of the 3 LoRAs in the split train are of the 3 people who are trained on; of validation people there are 1"
        in told
    )
    with pytest.raises(ValueError, match="3 teachers, found only 2"):
        train(replace(beside, training=replace(training, people=4, teachers=3), output=tmp_path / "more"))
    weaker = LoRAStore(tmp_path / "weaker", lora_layout())
    weaker.add("train", ["7000", "7005", "elsewhere"], 0.5 * loras[[0, 3, 1]])
    weaker.add("validation", ["7002"], loras[2:3])
    with pytest.raises(ValueError, match=r"belongs to a run with LoRAs \(hash\)"):
        train(replace(beside, stores=(weaker.folder,)))


def test_stores_and_the_number_of_teachers_go_together(settings: JointSettings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training\.teachers is 2, and `stores` names no store"):
        replace(settings, training=replace(settings.training, people=3, teachers=2))
    with pytest.raises(ValueError, match=r"stores names teachers, and training\.teachers is 0"):
        replace(settings, stores=(tmp_path,))


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
