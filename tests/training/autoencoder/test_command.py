"""The command train-lae: a store of LoRAs in, an autoencoder in one file out."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from difflora_core.autoencoder.lae_file import HEADER, load_lae
from difflora_core.files import read_tensors
from difflora_core.lora.layout import LoRALayout
from tests.training.autoencoder.small_runs import LAYOUT, SETTINGS, people, train, written
from training.autoencoder import command as train_lae
from training.autoencoder.config import LossWeights
from training.autoencoder.reconstruction_metrics import evaluate
from training.autoencoder.settings import LAESettings
from training.autoencoder.train import new_lae
from training.engine.settings import read_settings
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsInMemory

ROOT = Path(__file__).parents[3]


def read_history(folder: Path) -> dict[str, dict[str, float]]:
    """The metrics of all evaluations, by step, as the file has them."""
    header = json.loads(read_tensors(folder / "out" / "lae.safetensors")[1][HEADER])
    return header["provenance"]["history"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder)
    return folder


def test_the_result_has_the_best_weights(trained):
    lae = load_lae(trained / "out" / "lae.safetensors")
    assert lae.layout == LAYOUT
    history = read_history(trained)
    assert list(history) == ["0", "6", "12"]
    best = max(history.values(), key=lambda metrics: metrics["r2"])
    found = evaluate(lae, LoRAsInMemory(people(8, 9)), LossWeights())
    assert found == pytest.approx({name: best[name] for name in found}, abs=1e-5)
    assert {"reconstruction", "weight_preserved", "delta_w_cosine"} < found.keys()


def test_it_is_logged_for_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "out" / "run" / "lae")).Reload()
    assert [event.step for event in events.Scalars("validation/r2")] == [0, 6, 12]


def test_reading_from_disk_changes_nothing(tmp_path, trained):
    train(tmp_path, in_memory_gb=0.0)
    expected = weights(trained / "out" / "lae.safetensors")
    found = weights(tmp_path / "out" / "lae.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_stores_are_as_one(tmp_path, trained):
    for name, split, seed, at, count in (("one", "train", 0, 0, 12), ("two", "train", 5, 12, 12)):
        store = LoRAStore(tmp_path / name, LAYOUT)
        store.add(split, [f"t{i:02d}" for i in range(at, at + count)], people(count, seed))
    store.add("validation", [f"v{i}" for i in range(8)], people(8, 9))
    train(tmp_path, stores=["one", "two"], in_memory_gb=0.0)
    expected = weights(trained / "out" / "lae.safetensors")
    found = weights(tmp_path / "out" / "lae.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_launched_processes_are_one_that_accumulates_two_micro_batches(tmp_path):
    alone, launched = tmp_path / "alone", tmp_path / "launched"
    for folder in (alone, launched):
        folder.mkdir()
    loop = SETTINGS["training"]["loop"] | {"log_with": []}
    train(alone, training={"loop": loop | {"accumulate": 2}})
    config = written(launched, training={"loop": loop})
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no"]
    command = [*launch, "--num_processes", "2", "--main_process_port", "0", "-m", "training", "train-lae", "--config"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, str(config)], env=environment, check=True, cwd=ROOT)
    expected = weights(alone / "out" / "lae.safetensors")
    found = weights(launched / "out" / "lae.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_a_dry_run_needs_no_store_and_writes_nothing(tmp_path, capsys):
    unet = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    unet |= {"block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 8}
    (tmp_path / "unet.json").write_text(json.dumps(unet), encoding="utf-8")
    config = written(tmp_path, stores=["nowhere"], layout={"unet": "unet.json", "rank": 2})
    before = sorted(tmp_path.rglob("*"))
    train_lae.COMMAND.run(Namespace(config=config, dry_run=True))
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    layout = LoRALayout.from_config(unet, 2)
    parameters = sum(p.numel() for p in new_lae(layout, read_settings(LAESettings, config).lae, 0).parameters())
    assert lines["LoRA"] == f"{len(layout.modules)} modules, rank 2: {layout.numel:,} values"
    assert lines["parameters"].startswith(f"{parameters:,}, of which {parameters:,}")
    assert lines["compression"].startswith(
        f"{layout.numel / 4:.1f} : 1 by the latent alone, {layout.numel / 4:.1f} : 1"
    )
    assert f"weights {4 * parameters / 1000:.3g} KB" in lines["memory"]
    assert f"AdamW's moments {8 * parameters / 1000:.3g} KB" in lines["memory"]
    assert float(lines["speed"].split()[0]) > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_variational_network_trains_and_its_latents_come_near_unit_gaussian(tmp_path):
    def run(weight: float) -> dict[str, float]:
        folder = tmp_path / str(weight)
        folder.mkdir()
        loop = SETTINGS["training"]["loop"] | {"steps": 60, "learning_rate": 1e-2}
        train(
            folder,
            lae={"variational": True},
            training={"evaluation": {"interval": 60}, "losses": {"kl": weight}, "loop": loop},
        )
        return read_history(folder)["60"]

    assert run(1.0)["kl"] < 0.5 * run(1e-6)["kl"]


def test_kl_without_a_variational_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"losses.kl needs a variational network"):
        train(tmp_path, training={"losses": {"kl": 0.1}})


class Check:
    """Stands in for the base model: likes the first evaluation after the start best."""

    def __init__(self, settings, layout, people, teachers, device) -> None:
        assert people == [f"v{i}" for i in range(8)]
        self.teachers, self.values = teachers.read([0, 3]), iter([0.1, 0.9, 0.5])

    def is_due(self, evaluation: int) -> bool:
        return True

    def metrics(self, loras: torch.Tensor) -> dict[str, float]:
        assert loras.shape == (2, LAYOUT.numel)
        return {"teacher_recovery": next(self.values)}


def test_the_diffusion_loss_decides_which_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(train_lae, "DiffusionLossCheck", Check)
    evaluation = {"interval": 6, "monitor": "teacher_recovery"}
    train(tmp_path, diffusion_loss_check={"dataset": "dataset.yaml"}, training={"evaluation": evaluation})
    history = read_history(tmp_path)
    assert [metrics["teacher_recovery"] for metrics in history.values()] == [0.1, 0.9, 0.5]
    found = evaluate(load_lae(tmp_path / "out" / "lae.safetensors"), LoRAsInMemory(people(8, 9)))
    assert found["r2"] == pytest.approx(history["6"]["r2"], abs=1e-6)
    assert found["r2"] != pytest.approx(history["12"]["r2"], abs=1e-6)


def test_the_section_of_the_monitored_metric_is_needed(tmp_path):
    with pytest.raises(ValueError, match="needs the section `diffusion_loss_check`"):
        train(tmp_path, training={"evaluation": {"monitor": "teacher_recovery"}})
