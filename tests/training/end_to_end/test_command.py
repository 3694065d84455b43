"""`tune` on the miniature's base model: each network in, the same kind of file out, judged by held-out pictures."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from difflora_core.autoencoder.lae_file import load_lae, save_lae
from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.model import DiffLoRA, DiffLoRAConfig, EncoderNames
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_host
from miniature.paths import WEIGHTS
from miniature.personal.held_out import HeldOut
from miniature.personal.photographs import SCENES
from miniature.personal.teachers import layout
from miniature.world.drawing import draw
from miniature.world.people import caption, person
from training.end_to_end.command import TuneSettings, dry_run, tune
from training.end_to_end.objectives import DenoiserFinetuning, LAEFinetuning
from training.engine.loop import TrainConfig
from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import run_stage
from training.lora_dataset.stages.preprocess import PREPROCESS
from training.people.embeddings import Pictures, write_embeddings
from training.store.lora_store import LoRAStore

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
LOOP = TrainConfig(steps=2, learning_rate=1e-3, warmup=0, ema=0.0, unused_parameters=True)
ENCODERS = EncoderNames("faces", "pictures")
CONFIG = LAEConfig(kind="linear", tokens=2, width=1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TuneSettings:
    """Three people with shipped teachers, the third for validation; a fourth has pictures alone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tune")
    export_diffusers(
        WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors", folder / "base", find_host() / "comfy" / "sd1_tokenizer"
    )
    (folder / "dataset.yaml").write_text(
        "workspace: work\nbase: base\npreprocess: {size: 128, held_out: 1}\ndreambooth: {dtype: fp32}\n"
    )
    config = load_config(folder / "dataset.yaml")
    held_out = HeldOut.load()
    for index in (*held_out.people[:3], 40):
        pictures = []
        for place, scene in enumerate(SCENES[:3]):
            path = config.workspace / "generate" / f"{index}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person(index), scene).image).save(path)
            pictures.append({"file": str(path.relative_to(config.workspace)), "caption": caption(scene)})
        Manifest(config.stage("generate")).write(Record(f"{index}", facts={"pictures": pictures}))
        Manifest(config.stage("filter")).write(Record(f"{index}", facts={"kept": pictures}))
    run_stage(PREPROCESS, config)
    store = LoRAStore(folder / "store", layout())
    teachers = held_out.teachers[:3].float()
    store.add("train", list(held_out.people[:2]), teachers[:2])
    store.add("validation", list(held_out.people[2:3]), teachers[2:])
    dice = torch.Generator().manual_seed(0)
    embedded = {
        f"{index}": Pictures(torch.randn(2, 4, generator=dice), torch.randn(2, 4, generator=dice))
        for index in (*held_out.people[:3], 40)
    }
    write_embeddings(folder / "embeddings" / "all.safetensors", embedded, ENCODERS)
    lae = LAE(layout(), CONFIG)
    lae.fit(teachers[:2])
    save_lae(folder / "lae.safetensors", lae)
    return TuneSettings(
        folder / "lae.safetensors",
        (folder / "store",),
        folder / "dataset.yaml",
        folder / "tuned",
        (folder / "embeddings",),
        rounds=1,
        lae=LAEFinetuning(LOOP, people=2),
        denoiser=DenoiserFinetuning(replace(LOOP, learning_rate=0.1), people=3, batch=2),
    )


def test_an_autoencoder_becomes_an_autoencoder(settings: TuneSettings, capsys: pytest.CaptureFixture) -> None:
    before = load_lae(settings.network)
    after = load_lae(tune(settings))
    assert after.config == CONFIG
    assert not torch.equal(after.network.basis, before.network.basis)
    said = capsys.readouterr().out
    assert "before: teacher_recovery" in said
    assert "step 2: teacher_recovery" in said


def test_a_dry_run_counts_the_base_model_and_writes_nothing(settings: TuneSettings) -> None:
    said = dry_run(replace(settings, output=settings.output.with_name("dry")))
    parameters = sum(parameter.numel() for parameter in load_lae(settings.network).parameters())
    assert f"parameters   {parameters:,}" in said
    assert "U-Net" in said
    assert "steps/s" in said
    assert not settings.output.with_name("dry").exists()


def test_a_checkpoint_becomes_a_checkpoint(settings: TuneSettings) -> None:
    config = DiffLoRAConfig(
        CONFIG, DiTConfig(2, 1, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8), ENCODERS, SamplingConfig(steps=1)
    )
    torch.manual_seed(0)
    model = DiffLoRA(layout(), config)
    model.lae.load_state_dict(load_lae(settings.network).state_dict())
    torch.nn.init.constant_(model.dit.out.bias, 3.0)  # everybody far from the average person: there is much to gain
    path = settings.network.with_name("difflora.safetensors")
    model.save(path, torch.float32)
    after = DiffLoRA.load(tune(replace(settings, network=path, output=settings.output.with_name("tuned_difflora"))))
    assert not torch.equal(after.dit.out.weight, model.dit.out.weight)
    assert torch.equal(after.lae.network.basis.half(), model.lae.network.basis.half())
    assert "before" in after.config.provenance["tuned"]
    tried = after.config.provenance["validation"]
    assert ", ".join(f"{key} {value}" for key, value in asdict(after.config.sampling).items()) in tried


def test_people_without_prepared_pictures_are_named(settings: TuneSettings, tmp_path: Path) -> None:
    store = LoRAStore(tmp_path / "store", layout())
    held_out = HeldOut.load()
    store.add("train", ["nobody"], held_out.teachers[:1].float())
    store.add("validation", list(held_out.people[2:3]), held_out.teachers[2:3].float())
    with pytest.raises(ValueError, match=r"1 of 1 people have no prepared pictures .* nobody"):
        tune(replace(settings, stores=(store.folder,), output=tmp_path / "out"))


def test_the_network_is_not_written_over(settings: TuneSettings) -> None:
    with pytest.raises(ValueError, match="choose another output folder"):
        replace(settings, output=settings.network.parent)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("tune_*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_read(path: Path) -> None:
    settings = read_settings(TuneSettings, path)
    assert settings.stores
    assert settings.dataset.is_file()
    assert (settings.denoiser if settings.embeddings else settings.lae).loop.steps > LOOP.steps
