"""The training loop that all networks share: several CPU processes, EMA, resumable after a hard kill.

Every batch is a function of (seed, step, process), so a run that was killed and started again sees the same numbers as
one that was not: the checkpoint holds parameters, EMA and Adam's moments, no state of a random number generator.
One thread per process: on a machine with busy neighbours two processes outrun one process with two threads.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter; empty until its first gradient
LossFunction = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class TrainConfig:
    """steps: optimiser steps. learning_rate: peak, after `warmup` steps, then cosine to a twentieth. ema: decay."""

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    save_every: int = 200
    seed: int = 0


def in_processes(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run `function(rank, processes, *arguments)` in several processes that share gradients over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_enter, (processes, port, function, arguments), nprocs=processes)


def _enter(rank: int, processes: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    end_with_parent()
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    try:
        function(rank, processes, *arguments)
    finally:
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Make this worker process end when the command that started it is gone, even if that was killed hard.

    Without it workers train on, unseen, and write over the files of the next run.
    """
    parent = torch.multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train(
    module: nn.Module,
    loss_function: LossFunction,
    config: TrainConfig,
    folder: Path,
    name: str,
    until: int | None = None,
) -> None:
    """Train `module` in place until `config.steps` (or `until`, to be continued), then load its EMA weights into it.

    loss_function(module, step, generator) → (loss, figures to show). The generator is seeded from (seed, step, rank).
    folder/name.safetensors is the resumable state; folder/name.jsonl the log (rank 0).
    """
    parallel = dist.is_initialized() and dist.get_world_size() > 1
    rank = dist.get_rank() if parallel else 0
    end = config.steps if until is None else min(until, config.steps)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    parameters = dict(module.named_parameters())
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    ema = {key: value.detach().clone() for key, value in parameters.items()}
    start = _load(path, parameters, ema, optimiser) if path.exists() else 0
    wrapped: nn.Module = DistributedDataParallel(module) if parallel and start < end else module
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(start + step, config))
    progress = tqdm(range(start, end), initial=start, total=config.steps, desc=name, disable=rank > 0, mininterval=5)
    for step in progress:
        generator = torch.Generator().manual_seed(hash((config.seed, step, rank)) & 0x7FFFFFFF)
        loss, figures = loss_function(wrapped, step, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        optimiser.step()
        schedule.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), [p.detach() for p in parameters.values()], 1 - decay)
        if rank == 0 and (step + 1) % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}", **{k: f"{v:.3g}" for k, v in figures.items()})
            _log(folder / f"{name}.jsonl", {"step": step + 1, "loss": loss.item(), **figures})
        if rank == 0 and ((step + 1) % config.save_every == 0 or step + 1 == end):
            _save(path, parameters, ema, optimiser, step + 1)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(ema[key])


def load_trained(module: nn.Module, folder: Path, name: str) -> None:
    """Load the EMA weights of a (possibly unfinished) run into `module`."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train {name} first (python -m miniature build)")
    with safe_open(path, "pt") as file, torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(file.get_tensor(f"ema.{key}"))


def _rate(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.05 + 0.95 * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * min(1.0, done)))))


def _tensors(
    parameters: dict[str, nn.Parameter], ema: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for key, parameter in parameters.items():
        yield f"model.{key}", parameter.detach()
        yield f"ema.{key}", ema[key]
        for moment in MOMENTS:
            if moment in optimiser.state[parameter]:
                yield f"{moment}.{key}", optimiser.state[parameter][moment]


def _save(
    path: Path, parameters: dict[str, nn.Parameter], ema: dict[str, Tensor], optimiser: torch.optim.Optimizer, step: int
) -> None:
    partial = path.with_suffix(".partial")
    tensors = {key: value.contiguous() for key, value in _tensors(parameters, ema, optimiser)}
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.replace(path)


def _load(
    path: Path, parameters: dict[str, nn.Parameter], ema: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> int:
    with safe_open(path, "pt") as file, torch.no_grad():
        step, names = int(file.metadata()["step"]), set(file.keys())
        for key, parameter in parameters.items():
            parameter.copy_(file.get_tensor(f"model.{key}"))
            ema[key].copy_(file.get_tensor(f"ema.{key}"))
            if f"exp_avg.{key}" in names:
                # A parameter counts its own steps: an expert that is dropped now and then has had fewer gradients
                state = {moment: file.get_tensor(f"{moment}.{key}") for moment in MOMENTS if f"{moment}.{key}" in names}
                optimiser.state[parameter] = {"step": torch.tensor(float(step)), **state}
    return step


def _log(path: Path, entry: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
