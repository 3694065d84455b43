"""`train-difflora` from its YAML file to a checkpoint, on a toy store; and what it refuses."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.layout import LoRALayout
from difflora_core.model import DiffLoRA
from training.__main__ import main
from training.denoiser.command import ONE_SHOT, train_difflora
from training.denoiser.settings import DiffLoRASettings
from training.engine.processes import in_processes
from training.engine.settings import read_settings
from training.people.latents import open_lae
from training.store.lora_store import LoRAStore

from .toy_run import ENCODERS, LAYOUT, PEOPLE, configure, train, write_lae, write_world

RECIPES = Path(__file__).parents[3] / "training" / "recipes"


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


def test_a_checkpoint_comes_out(world):
    model = DiffLoRA.load(train(world))
    assert model.layout == LAYOUT
    assert model.config.encoders == ENCODERS
    assert (model.config.dit.tokens, model.config.dit.latent_width, model.config.dit.width) == (2, 3, 16)
    assert (model.config.mif.face_width, model.config.mif.image_width, model.config.mif.width) == (4, 3, 16)
    provenance = model.config.provenance
    assert (provenance["people"], provenance["validation_people"], provenance["training"]["loop"]["steps"]) == (
        24,
        6,
        8,
    )
    assert set(provenance["history"]) == {"4", "8"}
    assert set(provenance["history"]["4"]) == {"r2", "delta_w_cosine"}
    condition = model.mix(torch.randn(2, 4), torch.randn(2, 3)).condition
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
    condition = model.mix(torch.randn(2, 4), torch.randn(2, 3)).condition
    one, other = (model.sample(condition, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(one, other)


def test_a_finished_run_is_not_run_again(world):
    first = load_file(train(world))
    state = world / "out" / "run" / "difflora.safetensors"
    written = state.stat().st_mtime_ns
    second = load_file(train(world))
    assert state.stat().st_mtime_ns == written
    assert all(torch.equal(first[name], second[name]) for name in first)


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
    provenance = DiffLoRA.load(train(world)).config.provenance
    assert (provenance["people"], provenance["validation_people"]) == (22, 5)


def test_embeddings_of_another_encoder_are_refused(world):
    configure(world, encoders={"face": "antelopev2", "image": "images"})
    with pytest.raises(ValueError, match="by faces and images, expected antelopev2 and images"):
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
        ({"training": {"evaluation": {"monitor": "teacher_recovery"}}}, "needs the section `diffusion_loss_check`"),
        (
            {
                "training": {"evaluation": {"monitor": "teacher_recovery", "interval": 4}},
                "loop": {"steps": 8},
                "diffusion_loss_check": {"dataset": "x.yaml", "every": 3},
            },
            "every is 3, but 8 steps are evaluated 2 times .* would never be measured",
        ),
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


def test_two_processes_are_one_that_accumulates_two_micro_batches(world):
    """Some steps drop a modality."""
    in_processes(run_apart, 2, configure(world, {"batch": 4, "modality_dropout": 0.6}, output="two"))
    configure(world, {"batch": 4, "modality_dropout": 0.6}, {"accumulate": 2}, output="one")
    train(world)
    one, two = (load_file(world / name / "run" / "difflora_best.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*_train_difflora.yaml")), ids=lambda path: path.parent.name)
def test_the_configurations_can_be_read(path):
    settings = read_settings(DiffLoRASettings, path)
    settings.networks(None, (512, 768))
    assert settings.diffusion_loss_check is None or settings.diffusion_loss_check.dataset.is_file()


def test_the_diffusion_loss_check_gets_the_compared_people_and_their_teachers(world, monkeypatch):
    arguments = []

    class Check:
        rows: ClassVar = [4, 1]

        def __init__(self, settings, layout, people, teachers, device):
            arguments.append((layout, people, teachers.read(range(len(people)))))
            self.every = settings.every

        def is_due(self, evaluation):
            return evaluation % self.every == 0

        def metrics(self, loras):
            assert loras.shape == (2, LAYOUT.numel)
            return {"teacher_recovery": 0.5}

    monkeypatch.setattr("training.denoiser.command.DiffusionLossCheck", Check)
    (world / "dataset.yaml").write_text("{workspace: work, base: base}", encoding="utf-8")
    configure(world, diffusion_loss_check={"dataset": "dataset.yaml", "every": 2})
    history = DiffLoRA.load(train(world)).config.provenance["history"]
    assert ["teacher_recovery" in history[step] for step in ("4", "8")] == [False, True]
    ((layout, people, teachers),) = arguments
    assert (layout, people) == (LAYOUT, PEOPLE["validation"])
    assert torch.equal(teachers, LoRAStore(world / "store", LAYOUT).read("validation")[0])


def test_embeddings_are_made_first_where_a_dataset_is_named(world, monkeypatch):
    (world / "faces.yaml").write_text("{workspace: work, base: base, faces: {pack: faces}}", encoding="utf-8")
    made = []

    def embed(dataset, image_encoder, device):
        made.append((dataset.workspace, image_encoder))
        (world / "work" / "embeddings").mkdir(parents=True)
        (world / "embeddings").rename(world / "work" / "embeddings" / "faces+images")

    monkeypatch.setattr("training.people.embed.embed_people", embed)
    configure(world, embeddings={"dataset": "faces.yaml", "image_encoder": "clip/images"})
    train(world)
    assert made == [(world / "work", world / "clip" / "images")]


def test_a_dataset_of_other_encoders_is_refused(world):
    (world / "faces.yaml").write_text("{workspace: work, base: base, faces: {pack: faces}}", encoding="utf-8")
    configure(world, embeddings={"dataset": "faces.yaml", "image_encoder": "clip/another"})
    with pytest.raises(ValueError, match="name the encoders faces and another, `encoders` says faces and images"):
        train(world)


def test_the_command_line_tells_an_error_in_one_line(world, monkeypatch, capsys):
    configure(world, lae="none.safetensors")
    monkeypatch.setattr(sys, "argv", ["training", "train-difflora", "--config", str(world / "config.yaml")])
    assert main() == 1
    assert capsys.readouterr().err.startswith("FileNotFoundError: There is no LAE")
