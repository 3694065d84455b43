"""`finetune` on the miniature's base model: each network in, the same kind of file out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.lae_file import load_lae, save_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.personal.held_out_teachers import HeldOutTeachers
from tests.training.end_to_end.drawn_dataset import write_drawn_dataset
from training.end_to_end.command import dry_run, finetune, open_cache
from training.end_to_end.config import DenoiserFinetuning, LAEFinetuning
from training.end_to_end.inputs import FinetuneInputs
from training.end_to_end.settings import FinetuneSettings
from training.engine.config import TrainConfig
from training.engine.settings import read_settings
from training.lora_dataset.config import PackConfig, load_config
from training.lora_dataset.manifest import Manifest
from training.people.embeddings import ImageEmbeddings, write_embeddings
from training.store.lora_store import LoRAStore
from training.store.loras import people_of

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
LOOP = TrainConfig(steps=2, learning_rate=1e-3, warmup=0, ema=0.0, unused_parameters=True)
ENCODERS = EncoderNames("faces", "images")
CONFIG = LAEConfig(kind="linear", tokens=2, width=1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, sdxl_folder: Path) -> FinetuneSettings:
    """Three people with shipped teachers, the third for validation; a fourth has only images."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finetune")
    held_out = HeldOutTeachers.load()
    people = (*held_out.people[:3], 40)
    dataset = write_drawn_dataset(folder, sdxl_folder, people, "dreambooth: {dtype: fp32}\n")
    store = LoRAStore(folder / "store", lora_layout())
    teachers = held_out.teachers[:3].float()
    store.add("train", list(held_out.people[:2]), teachers[:2])
    store.add("validation", list(held_out.people[2:3]), teachers[2:])
    generator = torch.Generator().manual_seed(0)
    embedded = {
        f"{index}": ImageEmbeddings(torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator))
        for index in people
    }
    write_embeddings(folder / "embeddings" / "all.safetensors", embedded, ENCODERS)
    lae = LAE(lora_layout(), CONFIG)
    lae.fit(teachers[:2])
    save_lae(folder / "lae.safetensors", lae)
    return FinetuneSettings(
        folder / "lae.safetensors",
        (folder / "store",),
        dataset,
        folder / "finetuned",
        (folder / "embeddings",),
        lae=LAEFinetuning(LOOP, people=2),
        denoiser=DenoiserFinetuning(replace(LOOP, learning_rate=0.1), people=3, batch=2),
    )


def test_an_autoencoder_becomes_an_autoencoder(settings: FinetuneSettings, capsys: pytest.CaptureFixture) -> None:
    before = load_lae(settings.network)
    after = load_lae(finetune(settings))
    assert after.config == CONFIG
    assert not torch.equal(after.network.basis, before.network.basis)
    printed = capsys.readouterr().out
    assert "step 0: teacher_recovery" in printed
    assert "step 2: teacher_recovery" in printed


def test_a_dry_run_counts_the_base_model_and_writes_nothing(settings: FinetuneSettings) -> None:
    parts = dry_run(replace(settings, output=settings.output.with_name("dry")))
    parameters = sum(parameter.numel() for parameter in load_lae(settings.network).parameters())
    sizes = next(parts)  # before anything is measured
    assert f"trained      LAE, linear: {parameters:,} parameters" in sizes
    assert "steps: " in sizes
    report = next(parts)
    assert f"parameters   {parameters:,}" in report
    assert "U-Net" in report
    assert "steps/s" in report
    assert not settings.output.with_name("dry").exists()


def test_a_checkpoint_becomes_a_checkpoint(settings: FinetuneSettings) -> None:
    config = DiffLoRAConfig(
        CONFIG, DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8), ENCODERS, SamplingConfig(steps=1)
    )
    torch.manual_seed(0)
    model = DiffLoRA(lora_layout(), config)
    model.lae.load_state_dict(load_lae(settings.network).state_dict())
    torch.nn.init.constant_(model.dit.out.bias, 3.0)  # all people far from the average person: there is much to improve
    path = settings.network.with_name("difflora.safetensors")
    model.save(path, torch.float32)
    sizes = next(dry_run(replace(settings, network=path)))
    trained = sum(parameter.numel() for network in (model.dit, model.mif) for parameter in network.parameters())
    assert f"trained      MIF and DiT: {trained:,} parameters" in sizes
    after = DiffLoRA.load(
        finetune(replace(settings, network=path, output=settings.output.with_name("finetuned_difflora")))
    )
    assert not torch.equal(after.dit.out.weight, model.dit.out.weight)
    assert torch.equal(after.lae.network.basis.half(), model.lae.network.basis.half())
    assert list(after.config.provenance["finetuning"]) == ["0", "2"]
    tried = after.config.provenance["sampling"]
    assert after.config.sampling.name in tried


def test_a_run_with_another_loop_is_not_resumed(settings: FinetuneSettings) -> None:
    finetune(settings)
    changed = replace(settings.lae, loop=replace(LOOP, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"a run with loop.learning_rate 0.001, the configuration says 0.5"):
        finetune(replace(settings, lae=changed))


def test_a_run_on_other_images_or_people_is_not_resumed(settings: FinetuneSettings, tmp_path: Path) -> None:
    settings = replace(settings, output=tmp_path / "finetuned")
    finetune(settings)
    with pytest.raises(ValueError, match="belongs to a run with images_per_person 1, the configuration says 3"):
        finetune(replace(settings, images_per_person=3))
    store, held_out = LoRAStore(tmp_path / "store", lora_layout()), HeldOutTeachers.load()
    store.add("train", [held_out.people[0], 40], held_out.teachers[:2].float())
    store.add("validation", list(held_out.people[2:3]), held_out.teachers[2:3].float())
    with pytest.raises(ValueError, match="belongs to a run with people "):
        finetune(replace(settings, stores=(store.folder,)))


def test_a_run_with_other_teachers_or_preparation_is_not_resumed(settings: FinetuneSettings, tmp_path: Path) -> None:
    settings = replace(settings, output=tmp_path / "finetuned")
    finetune(settings)
    store, held_out = LoRAStore(tmp_path / "store", lora_layout()), HeldOutTeachers.load()
    store.add("train", list(held_out.people[:2]), 0.9 * held_out.teachers[:2].float())
    store.add("validation", list(held_out.people[2:3]), held_out.teachers[2:3].float())
    with pytest.raises(ValueError, match=r"belongs to a run with LoRAs \(hash\)"):
        finetune(replace(settings, stores=(store.folder,)))
    dataset = settings.dataset.with_name("held_out.yaml")
    dataset.write_text(settings.dataset.read_text().replace("held_out: 1", "held_out: 2"))
    with pytest.raises(ValueError, match=r"belongs to a run with preprocess.held_out 1, the configuration says 2"):
        finetune(replace(settings, dataset=dataset))


def test_a_run_with_other_photos_is_not_resumed(settings: FinetuneSettings, tmp_path: Path) -> None:
    settings = replace(settings, output=tmp_path / "finetuned")
    finetune(settings)
    preprocess = Manifest(load_config(settings.dataset).stage("preprocess"))
    record = next(record for record in preprocess.records() if record.item != "40")
    preprocess.write(replace(record, inputs={**record.inputs, "images": "others"}))
    with pytest.raises(ValueError, match=r"belongs to a run with images \(hash\)"):
        finetune(settings)
    preprocess.write(record)


def test_a_run_from_another_network_is_not_resumed(settings: FinetuneSettings, tmp_path: Path) -> None:
    output, lae = tmp_path / "finetuned", load_lae(settings.network)
    finetune(replace(settings, output=output))
    with torch.no_grad():
        lae.network.basis.add_(0.01)
    save_lae(tmp_path / settings.network.name, lae)
    with pytest.raises(ValueError, match=r"belongs to a run with starting network '\w+', the configuration says '\w+'"):
        finetune(replace(settings, network=tmp_path / settings.network.name, output=output))


def test_people_without_preprocessed_images_are_named(settings: FinetuneSettings, tmp_path: Path) -> None:
    store = LoRAStore(tmp_path / "store", lora_layout())
    held_out = HeldOutTeachers.load()
    store.add("train", ["nobody"], held_out.teachers[:1].float())
    store.add("validation", list(held_out.people[2:3]), held_out.teachers[2:3].float())
    with pytest.raises(ValueError, match=r"1 of 1 people have no preprocessed images .* nobody"):
        finetune(replace(settings, stores=(store.folder,), output=tmp_path / "out"))


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_a_split_without_teachers_is_named(settings: FinetuneSettings, tmp_path: Path, missing: str) -> None:
    store, held_out = LoRAStore(tmp_path / "store", lora_layout()), HeldOutTeachers.load()
    store.add(
        {"train": "validation", "validation": "train"}[missing], held_out.people[:2], held_out.teachers[:2].float()
    )
    with pytest.raises(ValueError, match=f"holds no LoRAs of the split '{missing}': expected teachers"):
        finetune(replace(settings, stores=(store.folder,), output=tmp_path / "out"))


def test_whom_the_dataset_keeps_from_training_is_not_trained_on(settings: FinetuneSettings, tmp_path: Path) -> None:
    """By the dataset's own store, or by the name: here through another store, and without any teacher."""
    cache = open_cache(settings)
    inputs = FinetuneInputs.open(settings, LOOP, lora_layout(), trackers=False)
    without_teacher = next(person for person in inputs.finetune_people(cache) if str(person) == "40")
    shares = PackConfig(validation=0.0, test=1.0)
    held_out = replace(inputs, dataset=replace(inputs.dataset, pack=shares))
    assert without_teacher not in held_out.finetune_people(cache)
    dataset = settings.dataset.with_name("kept.yaml")
    dataset.write_text(settings.dataset.read_text() + "pack: {validation: 0.0, test: 1.0}\n")
    with pytest.raises(ValueError, match="is in the split train of `stores`, and in the split test of the dataset in"):
        finetune(replace(settings, dataset=dataset, output=tmp_path / "out"))


def test_the_seed_is_that_of_the_diffusion_loss_too(settings: FinetuneSettings) -> None:
    loop = replace(LOOP, seed=7)
    inputs = FinetuneInputs.open(settings, loop, lora_layout(), trackers=False)
    _, loss = inputs.images(people_of(inputs.stores, "train"))
    assert loss.seed == 7
    assert inputs.recovery.loss.seed == 0, "evaluations of all runs have the same noise"


def test_the_network_is_not_written_over(settings: FinetuneSettings) -> None:
    with pytest.raises(ValueError, match="choose another output folder"):
        replace(settings, output=settings.network.parent)


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/*_finetune_*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_shipped_configurations_are_read(path: Path) -> None:
    settings = read_settings(FinetuneSettings, path)
    assert settings.stores
    assert settings.dataset.is_file()
    assert (settings.denoiser if settings.embeddings else settings.lae).loop.steps > LOOP.steps
