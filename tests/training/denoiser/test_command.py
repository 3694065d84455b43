"""`train-difflora` from its YAML file to a checkpoint, on a toy store; and what it refuses."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.model import DiffLoRA, DiffLoRAConfig, EncoderNames
from training.__main__ import main
from training.denoiser.command import ONE_SHOT, train_difflora
from training.denoiser.dry_run import dry_run
from training.denoiser.settings import DiffLoRASettings
from training.denoiser.train import DiffLoRATraining, new_denoiser
from training.engine.processes import in_processes
from training.engine.settings import read_settings
from training.people import latents as person_latents
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.people.embeddings import Pictures, write_embeddings
from training.people.latents import cached_latents, open_lae
from training.store.lora_store import LoRAStore

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
ENCODERS = EncoderNames("faces", "pictures")
LAYOUT = LoRALayout(
    (
        LoRAModule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),
        LoRAModule("mid_block.attentions.0.transformer_blocks.0.ff.net.2", 3, 5),
    ),
    rank=2,
)
PEOPLE = {"train": [f"ann{i}" for i in range(24)], "validation": [f"bob{i}" for i in range(6)]}


def write_lae(path: Path, loras: torch.Tensor, layout: LoRALayout = LAYOUT) -> None:
    """A fitted LAE inside a whole checkpoint."""
    lae = LAE(layout, LAEConfig(kind="linear", tokens=2, width=3))
    lae.fit(loras)
    dit = DiTConfig(tokens=2, latent_width=3, width=8, layers=1, heads=1, head_width=8, condition_width=8)
    model = DiffLoRA(layout, DiffLoRAConfig(lae.config, dit, MIFConfig(4, 3, 8), ENCODERS))
    model.lae.load_state_dict(lae.state_dict())
    model.save(path, torch.float32)


@pytest.fixture
def world(tmp_path):
    """A folder with a store, an LAE, embeddings that tell people apart, and config.yaml."""
    dice = torch.Generator().manual_seed(0)
    store = LoRAStore(tmp_path / "store", LAYOUT)
    mixing = torch.randn(4, LAYOUT.numel, generator=dice)
    loras = {}
    for split, people in PEOPLE.items():
        faces = torch.randn(len(people), 4, generator=dice)
        loras[split] = faces @ mixing
        store.add(split, people, loras[split])
        for number, (name, face) in enumerate(zip(people, faces, strict=True)):
            pictures = face + 0.02 * torch.randn(1 + number % 3, 4, generator=dice)
            write_embeddings(
                tmp_path / "embeddings" / f"{name}.safetensors", {name: Pictures(pictures, pictures[:, :3])}, ENCODERS
            )
    write_lae(tmp_path / "lae.safetensors", loras["train"])
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, training: dict | None = None, loop: dict | None = None, **changed) -> Path:
    """Write config.yaml; JSON is YAML."""
    loop = {"steps": 8, "learning_rate": 0.005, "warmup": 2, "ema": 0.9, "save_every": 3} | (loop or {})
    training = {"batch": 8, "rounds": 2, "delta_w_error": 0.1, "delta_w_direction": 0.1} | (training or {})
    settings = {
        "stores": ["store"],
        "lae": "lae.safetensors",
        "output": "out",
        "encoders": {"face": "faces", "image": "pictures"},
        "embeddings": {"cache": ["embeddings"]},
        "dit": {"name": "miniature", "width": 16, "layers": 1, "heads": 1, "head_width": 16},
        "mif": {"width": 16},
        "training": training | {"loop": loop},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings | changed), encoding="utf-8")
    return path


def train(folder: Path) -> Path:
    return train_difflora(read_settings(DiffLoRASettings, folder / "config.yaml"))


def test_a_checkpoint_comes_out(world):
    model = DiffLoRA.load(train(world))
    assert model.layout == LAYOUT
    assert model.config.encoders == ENCODERS
    assert (model.config.dit.tokens, model.config.dit.latent_width, model.config.dit.width) == (2, 3, 16)
    assert (model.config.mif.face_width, model.config.mif.image_width, model.config.mif.width) == (4, 3, 16)
    told = model.config.provenance
    assert (told["people"], told["validation_people"], told["training"]["loop"]["steps"]) == (24, 6, 8)
    assert set(told["rounds"]) == {"step 4", "step 8"}
    assert set(told["rounds"]["step 4"]) == {"r2", "delta_w_cosine"}
    condition = model.mix(torch.randn(2, 4), torch.randn(2, 3))
    lora = model.decode(model.sample(condition, generator=torch.Generator().manual_seed(0), steps=2))
    assert lora.shape == (1, LAYOUT.numel)
    assert lora.isfinite().all()


def test_the_lae_is_the_one_it_was_given(world):
    model, given = DiffLoRA.load(train(world)), open_lae(world / "lae.safetensors")
    torch.testing.assert_close(model.lae.mean, given.mean)
    torch.testing.assert_close(model.lae.network.basis, given.network.basis, atol=1e-3, rtol=1e-3)  # kept in half


def test_a_regression_recommends_one_step(world):
    configure(world, {"objective": "regression"})
    model = DiffLoRA.load(train(world))
    assert model.config.sampling == ONE_SHOT
    condition = model.mix(torch.randn(2, 4), torch.randn(2, 3))
    one, other = (model.sample(condition, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(one, other)


def test_a_finished_run_is_not_run_again(world):
    first = load_file(train(world))
    state = world / "out" / "run" / "difflora.safetensors"
    written = state.stat().st_mtime_ns
    second = load_file(train(world))
    assert state.stat().st_mtime_ns == written
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("change", [{"training": {"blend": 0.5}}, {"loop": {"steps": 12}}, {"mif": {"mode": "face"}}])
def test_a_run_is_not_resumed_with_other_settings(world, change):
    train(world)
    configure(world, **change)
    with pytest.raises(ValueError, match="belongs to a run with"):
        train(world)


def test_how_a_run_is_computed_may_change(world):
    path = train(world)
    configure(world, loop={"shard": True, "save_every": 5})
    assert train(world) == path


def test_a_run_is_not_resumed_with_another_lae(world):
    train(world)
    loras, _ = LoRAStore(world / "store", LAYOUT).read("train")
    write_lae(world / "lae.safetensors", loras[:12])
    with pytest.raises(ValueError, match="belongs to a run with lae"):
        train(world)


def test_latents_are_encoded_once_for_an_lae_and_a_store(world, monkeypatch):
    store, lae = LoRAStore.open(world / "store"), open_lae(world / "lae.safetensors")
    calls = []
    encode = person_latents._encode
    monkeypatch.setattr(person_latents, "_encode", lambda *a: calls.append(a[3]) or encode(*a))
    path = world / "latents.safetensors"
    latents, people = cached_latents([store], "train", lae, path)
    assert (latents.shape, people) == ((24, 2, 3), PEOPLE["train"])
    loras, _ = store.read("train")
    torch.testing.assert_close(latents, lae.encode(loras))
    again, _ = cached_latents([store], "train", lae, path)
    assert torch.equal(again, latents)
    assert len(calls) == 1
    lae.latent_std *= 2
    other, _ = cached_latents([store], "train", lae, path)
    assert len(calls) == 2
    torch.testing.assert_close(2 * other, latents)
    store.add("train", ["new"], loras[:1])
    assert cached_latents([store], "train", lae, path)[1] == [*PEOPLE["train"], "new"]


def test_a_lora_that_is_not_finite_is_named(world):
    bad = torch.ones(2, LAYOUT.numel)
    bad[1, 3] = float("nan")
    metadata = {"people": json.dumps(["fine", "broken"])}
    save_file({"loras": bad}, world / "store" / "train" / "zzz.safetensors", metadata)
    with pytest.raises(ValueError, match="the LoRA of broken holds NaN"):
        train(world)


def test_people_without_embeddings_are_refused_or_left_out(world):
    for name in ("ann3", "ann4", "bob0"):
        (world / "embeddings" / f"{name}.safetensors").unlink()
    with pytest.raises(ValueError, match=r"2 of 24 people have no embeddings in .*: ann3, ann4"):
        train(world)
    configure(world, embeddings={"cache": ["embeddings"], "allow_missing": True})
    told = DiffLoRA.load(train(world)).config.provenance
    assert (told["people"], told["validation_people"]) == (22, 5)


def test_embeddings_of_another_encoder_are_refused(world):
    configure(world, encoders={"face": "antelopev2", "image": "pictures"})
    with pytest.raises(ValueError, match="by faces and pictures, expected antelopev2 and pictures"):
        train(world)


def test_embeddings_of_another_width_are_refused(world):
    configure(world, mif={"face_width": 512})
    with pytest.raises(ValueError, match=r"of widths \(4, 3\) \(face, image\), expected \(512, 3\)"):
        train(world)


def test_an_lae_of_another_layout_is_refused(world):
    other = LoRALayout(LAYOUT.modules, rank=1)
    write_lae(world / "lae.safetensors", torch.randn(8, other.numel), other)
    with pytest.raises(ValueError, match="another layout than the LAE was trained for: rank 2 instead of 1"):
        train(world)


def test_fewer_people_than_a_batch_are_refused(world):
    configure(world, {"batch": 25})
    with pytest.raises(ValueError, match="A batch has 25 people, found only 24"):
        train(world)


def test_a_missing_lae_says_what_to_run(world):
    configure(world, lae="none.safetensors")
    with pytest.raises(FileNotFoundError, match="training train-lae"):
        train(world)


def test_another_file_is_no_lae(world):
    save_file({"weight": torch.ones(2)}, world / "lae.safetensors")
    with pytest.raises(ValueError, match=r"lae\.safetensors"):
        train(world)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dit": {"name": "huge"}}, "DiTs by name are paper, small, miniature, found 'huge'"),
        ({"embeddings": {}}, "found neither"),
        ({"embeddings": {"dataset": "x.yaml"}}, "needs embeddings.image_encoder"),
        ({"training": {"monitor": "teacher_recovery"}}, "needs the section `pictures`"),
        ({"color": "red"}, "unknown setting 'color'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(world, changed, message):
    path = configure(world, **changed)
    with pytest.raises(ValueError, match=message):
        read_settings(DiffLoRASettings, path)


@pytest.mark.parametrize(("groups", "types"), [(2, (0, 1)), (1, ())])
def test_latents_of_one_token_per_module_are_told_what_it_is(world, groups, types):
    settings = read_settings(DiffLoRASettings, configure(world))
    lae = LAE(LAYOUT, LAEConfig(kind="token", tokens=2, width=3, channels=4, hidden=8, heads=2, groups=groups))
    dit, _ = settings.networks(lae, (4, 3))
    assert dit.token_types == types


def run_apart(rank: int, processes: int, path: Path) -> None:
    """One of several processes of a run."""
    train_difflora(read_settings(DiffLoRASettings, path))


def test_two_processes_are_one_that_accumulates_two_parts(world):
    """Some steps drop an expert, sometimes in one process only."""
    in_processes(run_apart, 2, configure(world, {"batch": 4, "modality_dropout": 0.6}, output="two"))
    configure(world, {"batch": 4, "modality_dropout": 0.6}, {"accumulate": 2}, output="one")
    train(world)
    one, two = (load_file(world / name / "run" / "difflora_best.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_a_dry_run_counts_and_measures_without_store_and_embeddings(world):
    path = configure(world, stores=["none"], embeddings={"cache": ["none"]})
    told = dry_run(read_settings(DiffLoRASettings, path))
    settings = read_settings(DiffLoRASettings, path)
    model = new_denoiser(*settings.networks(open_lae(settings.lae), (512, 768)), DiffLoRATraining())
    assert f"{sum(p.numel() for p in model.dit.parameters()):,} parameters" in told
    assert "latent       2 × 3 = 6 numbers" in told
    assert "steps/s" in told
    assert not (world / "out").exists()


def test_a_dry_run_without_an_lae_takes_the_latent_that_the_dit_was_meant_for(world):
    path = configure(world, lae="none.safetensors")
    told = dry_run(read_settings(DiffLoRASettings, path))
    assert "not there yet" in told
    assert "latent       18 × 16 = 288 numbers" in told


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("difflora_*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_can_be_read(path):
    settings = read_settings(DiffLoRASettings, path)
    settings.networks(None, (512, 768))
    assert settings.pictures is None or settings.pictures.dataset.is_file()


def test_pictures_are_looked_at_every_so_many_rounds(world, monkeypatch):
    """The check gets the predicted LoRAs of the people it chose, beside these people's teachers."""
    seen = []

    class Check:
        rows: ClassVar = [4, 1]

        def figures(self, loras, teachers):
            seen.append((loras, teachers))
            return {"teacher_recovery": 0.5}

    def open_check(settings, layout, people, device):
        assert (layout, people) == (LAYOUT, PEOPLE["validation"])
        return Check()

    monkeypatch.setattr(DiffusionLossCheck, "open", open_check)
    configure(world, pictures={"dataset": "none.yaml", "every": 2})
    told = DiffLoRA.load(train(world)).config.provenance["rounds"]
    assert ["teacher_recovery" in told[f"step {step}"] for step in (4, 8)] == [False, True]
    ((loras, teachers),) = seen
    whole, _ = LoRAStore(world / "store", LAYOUT).read("validation")
    assert torch.equal(teachers, whole[[4, 1]])
    assert loras.shape == teachers.shape


def test_embeddings_are_made_first_where_a_data_set_is_named(world, monkeypatch):
    (world / "faces.yaml").write_text("{workspace: work, base: base, faces: {pack: faces}}", encoding="utf-8")
    made = []

    def embed(dataset, image_encoder, device):
        made.append((dataset.workspace, image_encoder))
        (world / "work" / "embeddings").mkdir(parents=True)
        (world / "embeddings").rename(world / "work" / "embeddings" / "faces+pictures")

    monkeypatch.setattr("training.denoiser.data.embed_people", embed)
    configure(world, embeddings={"dataset": "faces.yaml", "image_encoder": "clip/pictures"})
    train(world)
    assert made == [(world / "work", world / "clip" / "pictures")]


def test_a_data_set_of_other_encoders_is_refused(world):
    (world / "faces.yaml").write_text("{workspace: work, base: base, faces: {pack: faces}}", encoding="utf-8")
    configure(world, embeddings={"dataset": "faces.yaml", "image_encoder": "clip/another"})
    with pytest.raises(ValueError, match="name the encoders faces and another, `encoders` says faces and pictures"):
        train(world)


def test_the_command_line_tells_an_error_in_one_line(world, monkeypatch, capsys):
    configure(world, lae="none.safetensors")
    monkeypatch.setattr(sys, "argv", ["training", "train-difflora", "--config", str(world / "config.yaml")])
    assert main() == 1
    assert capsys.readouterr().err.startswith("FileNotFoundError: There is no LAE")
