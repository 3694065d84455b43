"""Processes that share parameters, gradients, moments and EMA (FSDP2) train as one process with all of the batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from tests.training.tiny_world import LAYOUT, base_model, diffusion_loss, person_images
from training.autoencoder.config import LAETraining
from training.autoencoder.weight_space_objective import LAEObjective
from training.denoiser.config import DiffLoRATraining
from training.denoiser.latent_space_objective import LatentObjective
from training.denoiser.train import new_denoiser
from training.end_to_end.config import DenoiserFinetuning
from training.end_to_end.objectives import DenoiserEndToEndObjective, FinetuneDataset
from training.engine.batches_ahead import LossFunction
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.engine.processes import in_processes
from training.engine.sharding import shard
from training.people.conditions import Conditions, People
from training.store.loras import LoRAsInMemory

LOOP = TrainConfig(steps=6, learning_rate=0.01, warmup=2, save_every=4, weight_decay=0.01, ema=0.9)
PEOPLE = 8


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def autoencoder(**config) -> tuple[nn.Module, LossFunction]:
    torch.manual_seed(0)
    loras = randn(PEOPLE, LAYOUT.numel)
    lae = LAE(LAYOUT, LAEConfig(tokens=2, width=3, channels=4, hidden=8, heads=2, **config))
    lae.fit(loras)
    return lae, LAEObjective(lae, LoRAsInMemory(loras), LAETraining(LOOP, batch=4))


def denoiser() -> tuple[Denoiser, People]:
    """Many steps drop a modality."""
    conditions = Conditions(randn(PEOPLE, 3, 4), randn(PEOPLE, 3, 4))
    dit, mif = DiTConfig(2, 3, 16, 2, 2, 8, condition_width=8), MIFConfig(4, 4, 8)
    return new_denoiser(dit, mif, DiffLoRATraining(LOOP)), People(randn(PEOPLE, 2, 3), conditions)


def latent_space() -> tuple[nn.Module, LossFunction]:
    model, people = denoiser()
    return model, LatentObjective(people, DiffLoRATraining(LOOP, batch=4, modality_dropout=0.6))


def end_to_end() -> tuple[nn.Module, LossFunction]:
    """With on-policy rollouts."""
    model, people = denoiser()
    lae = autoencoder(chunk=10)[0].requires_grad_(False)
    images = [person_images(str(number), randn(PEOPLE, 4)[number]) for number in range(PEOPLE)]
    dataset = FinetuneDataset(people.conditions, images, torch.arange(PEOPLE), people.latents)
    training = DenoiserFinetuning(LOOP, people=3, batch=4, modality_dropout=0.6, max_rollout_steps=6)
    return model, DenoiserEndToEndObjective(model, lae, dataset, diffusion_loss(base_model()), training)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, LossFunction]]] = {
    "conv": lambda: autoencoder(chunk=10, tied=True),
    "token": lambda: autoencoder(kind="token"),
    "latent_space": latent_space,
    "end_to_end": end_to_end,
}


def work(rank: int, processes: int, folder: Path) -> None:
    """One of the processes. The latent-space run resumes what one process began."""
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
    run("latent_space", folder, until=3)
    in_processes(work, 2, folder)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_two_sharded_processes_are_one_that_accumulates_two_micro_batches(tmp_path, sharded, name):
    module = run(name, tmp_path)
    found, expected = (load_file(folder / f"{name}.safetensors") for folder in (sharded, tmp_path))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-3, msg=lambda text, k=key: f"{k}: {text}")
    average = load_file(sharded / f"{name}.ema")
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(average[key], parameter.detach(), atol=1e-5, rtol=1e-3)


def test_sharding_excludes_compiling():
    with pytest.raises(ValueError, match="shard and compile"):
        replace(LOOP, shard=True, compile=True)
