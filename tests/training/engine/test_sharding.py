"""Processes that share parameters, gradients, moments and EMA (FSDP2) train as one process with all of the batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.denoiser.model import Denoiser
from tests.training.tiny_world import LAYOUT, album, base_model, diffusion_loss
from training.autoencoder.train import LAEObjective, LAETraining, Reconstruct
from training.denoiser.train import DiffLoRATraining, denoising_loss, new_denoiser
from training.end_to_end.objectives import DenoiserFinetuning, FinetuneDataset, denoiser_loss
from training.engine.loop import LossFunction, TrainConfig, train
from training.engine.processes import in_processes
from training.engine.sharding import shard
from training.people.conditions import Conditions, People
from training.store.loras import LoRAsInMemory

LOOP = TrainConfig(steps=6, learning_rate=0.01, warmup=2, save_every=4, weight_decay=0.01, ema=0.9)
PEOPLE = 8


def dice(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def autoencoder(**config) -> tuple[nn.Module, LossFunction]:
    torch.manual_seed(0)
    loras = dice(PEOPLE, LAYOUT.numel)
    lae = LAE(LAYOUT, LAEConfig(tokens=2, width=3, channels=4, hidden=8, heads=2, **config))
    lae.fit(loras)
    return Reconstruct(lae), LAEObjective(lae, LoRAsInMemory(loras), LAETraining(LOOP, batch=4))


def denoiser() -> tuple[Denoiser, People]:
    """Many steps drop an expert."""
    conditions = Conditions(dice(PEOPLE, 3, 4), dice(PEOPLE, 3, 4))
    dit, mif = DiTConfig(2, 3, 16, 2, 2, 8, condition_width=8), MIFConfig(4, 4, 8)
    return new_denoiser(dit, mif, DiffLoRATraining(LOOP)), People(dice(PEOPLE, 2, 3), conditions)


def numbers() -> tuple[nn.Module, LossFunction]:
    model, people = denoiser()
    return model, denoising_loss(people, DiffLoRATraining(LOOP, batch=4, modality_dropout=0.6))


def pictures() -> tuple[nn.Module, LossFunction]:
    """The network is also asked along a sampler's way."""
    model, people = denoiser()
    lae = autoencoder(chunk=10)[0].lae.requires_grad_(False)
    albums = [album(str(number), dice(PEOPLE, 4)[number]) for number in range(PEOPLE)]
    everyone = FinetuneDataset(people.conditions, albums, torch.arange(PEOPLE), people.latents)
    training = DenoiserFinetuning(LOOP, people=3, batch=4, modality_dropout=0.6, max_rollout_steps=6)
    return model, denoiser_loss(model, lae, everyone, diffusion_loss(base_model()), training)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, LossFunction]]] = {
    "conv": lambda: autoencoder(chunk=10, tied=True),
    "token": lambda: autoencoder(kind="token"),
    "numbers": numbers,
    "pictures": pictures,
}


def work(rank: int, processes: int, folder: Path) -> None:
    """One of the processes. The run on numbers goes on from where another process came to alone."""
    for name, make in NETWORKS.items():
        module, loss = make()
        whole = [tuple(parameter.shape) for parameter in module.parameters()]
        train(module, loss, replace(LOOP, unused_parameters=True, shard=True), folder, name)
        assert [tuple(parameter.shape) for parameter in module.parameters()] == whole
        held = sum(parameter.to_local().numel() for parameter in shard(module, processes).parameters())
        assert 0.4 < held / sum(parameter.numel() for parameter in module.parameters()) < 0.6
        if rank == 0:
            save_file({key: parameter.detach() for key, parameter in module.named_parameters()}, folder / f"{name}.ema")


def run(name: str, folder: Path, until: int | None = None) -> nn.Module:
    """What one process makes of the same batches."""
    module, loss = NETWORKS[name]()
    train(module, loss, replace(LOOP, accumulate=2), folder, name, until)
    return module


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    run("numbers", folder, until=3)
    in_processes(work, 2, folder)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_two_sharing_processes_are_one_that_accumulates_two_parts(tmp_path, sharded, name):
    module = run(name, tmp_path)
    found, expected = (load_file(folder / f"{name}.safetensors") for folder in (sharded, tmp_path))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-3, msg=lambda text, k=key: f"{k}: {text}")
    average = load_file(sharded / f"{name}.ema")
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(average[key], parameter.detach(), atol=1e-5, rtol=1e-3)


def test_what_is_sharded_is_not_compiled():
    with pytest.raises(ValueError, match="shard and compile"):
        replace(LOOP, shard=True, compile=True)
