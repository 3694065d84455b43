"""The training loop that all networks share, on Hugging Face Accelerate: any number of processes, EMA, resumable.

A step's batch consists of parts, `accumulate` × processes of them. A part is a function of (seed, step, number of the
part), whichever process draws it: N processes give the same numbers as one that accumulates N parts, and a run that was
killed and started again the same as one that was not. The state holds no random number generator.
One thread per process: on a machine with busy neighbors two processes outrun one process with two threads.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from .sharding import shard
from .state import TrainState

LOG_EVERY = 20  # steps
COMPILER = "inductor"
Figures = Mapping[str, float | Tensor]
LossFunction = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, Figures]]


@dataclass(frozen=True)
class TrainConfig:
    """How a module is trained.

    steps: optimizer steps. learning_rate: peak, after `warmup` steps, then cosine to a twentieth. ema: decay. clip: of
    the gradient's length. save_every: steps between two states. accumulate: parts of a batch that a process goes
    through one after another. mixed_precision: `bf16` runs the module's forward pass in bfloat16, parameters and
    moments stay float32. compile: torch.compile. device: `auto` is what Accelerate finds (CUDA, MPS, …). log_with:
    Accelerate's trackers by name ("tensorboard", "wandb", …); a log in JSON lines is always written.
    unused_parameters: some steps leave parameters without a gradient, which several processes have to be told.
    shard: several processes share parameters, gradients, moments and EMA (FSDP2, see `sharding`), where each has all of
    them otherwise (DDP). Not with compile.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    save_every: int = 200
    seed: int = 0
    accumulate: int = 1
    mixed_precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    device: Literal["cpu", "auto"] = "cpu"
    log_with: tuple[str, ...] = ()
    unused_parameters: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("warmup", 0), ("save_every", 1), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.ema < 1 or not self.clip > 0:
            raise ValueError(
                f"learning_rate and clip are above 0, ema is from 0 to below 1: found learning_rate "
                f"{self.learning_rate}, clip {self.clip}, ema {self.ema}"
            )
        if self.shard and self.compile:
            raise ValueError("shard and compile don't go together: what is sharded would run uncompiled. Choose one.")


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def open_accelerator(config: TrainConfig, folder: Path, name: str) -> Accelerator:
    """Accelerate as configured, with its trackers started: folder/name for TensorBoard.

    It finds by itself whether `accelerate launch`, torchrun or `in_processes` started this process; precision and
    device are the configuration's, whatever the launcher's defaults are. End it with `close_trackers`.

    Raises:
        ValueError: the launcher asks for FSDP.
    """
    # Accelerate keeps one state per process and refuses a second run with another precision or device
    AcceleratorState._reset_state(reset_partial_state=True)
    parallel = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # nothing trained by several processes changes its buffers
        find_unused_parameters=config.unused_parameters,
    )
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        dynamo_backend=COMPILER if config.compile else "no",
        log_with=list(config.log_with) or None,
        project_dir=folder if config.log_with else None,
        kwargs_handlers=[parallel],
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "the launcher asks for FSDP, but here the configuration says how processes share: launch without "
            "--use_fsdp, and set `shard: true` in `loop`."
        )
    if config.log_with:
        accelerator.init_trackers(name)
    return accelerator


def close_trackers(accelerator: Accelerator) -> None:
    """End what `open_accelerator` started. Accelerate's own `end_training` would end the process group, too."""
    for tracker in accelerator.trackers:
        tracker.finish()


def wrap(accelerator: Accelerator, module: nn.Module, sharded: bool = False) -> nn.Module:
    """The module with precision, compiler and processes as configured. sharded: it shares its gradients by itself."""
    with warnings.catch_warnings():
        # torch 2.15 has a new name for `broadcast_buffers`, which Accelerate can't pass on yet
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare_model(module, evaluation_mode=sharded)


def unwrap(accelerator: Accelerator, module: nn.Module) -> None:
    """Give the module back as it came: bf16 changes its own forward."""
    accelerator.unwrap_model(module, keep_fp32_wrapper=False, keep_torch_compile=False)


def generator_of(seed: int, step: int, part: int) -> torch.Generator:
    """The dice of one part of a step's batch, on the CPU, so that all devices draw the same."""
    return torch.Generator().manual_seed(hash((seed, step, part)) & 0x7FFFFFFF)


def generator_of_step(seed: int, step: int) -> torch.Generator:
    """The dice that all parts of a step share, for what decides which modules run: sharded processes have to agree."""
    return generator_of(seed, step, -1)


def train(
    module: nn.Module,
    loss_function: LossFunction,
    config: TrainConfig,
    folder: Path,
    name: str,
    until: int | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train `module` in place until `config.steps` (or `until`, to be continued), then load its EMA weights into it.

    loss_function(module, step, generator) → (loss, figures to show), for one part of the batch, as a mean over that
    part. It draws everything from the generator and moves it to the module's device. folder/name.safetensors is the
    resumable state, folder/name.jsonl the log (both by the first process; the others have to see the folder).
    accelerator: one that `open_accelerator` gave, where its trackers are to live longer than this call.

    Raises:
        ValueError: the state in the folder is that of another network.
        DivergedError: the loss is not finite any more; the state before is kept.
        OSError: the disk is full; the state before is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = open_accelerator(config, folder, name) if accelerator is None else accelerator
    try:
        Run(module, loss_function, config, folder, name, own).go(config.steps if until is None else until)
        own.wait_for_everyone()  # nobody reads the state of the next call before it is written
    finally:
        own.free_memory()
        if accelerator is None:
            close_trackers(own)


class Run:
    """One call of `train`: the module as Accelerate wants it, its optimizer, its state."""

    def __init__(
        self,
        module: nn.Module,
        loss_function: LossFunction,
        config: TrainConfig,
        folder: Path,
        name: str,
        accelerator: Accelerator,
    ) -> None:
        self.loss_function, self.config, self.name, self.accelerator = loss_function, config, name, accelerator
        self.path, self.log = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
        self.whole = module.to(accelerator.device)
        self.sharded = config.shard and accelerator.num_processes > 1
        self.module = shard(self.whole, accelerator.num_processes) if self.sharded else self.whole
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.state = TrainState(self.module, self.optimizer)
        self.start = self.state.load(self.path) if self.path.exists() else 0

    def go(self, until: int) -> None:
        """Train up to a step; the whole module then holds its EMA."""
        config, accelerator, end = self.config, self.accelerator, min(until, self.config.steps)
        if self.start < end:
            prepared, optimizer = self.prepare()
            for step in (progress := self._progress(end)):
                loss, figures = self.step(prepared, optimizer, step)
                last = step + 1 == end
                if (step + 1) % LOG_EVERY == 0:
                    self._tell(progress, step + 1, loss, figures)
                if (step + 1) % config.save_every == 0 or last:
                    self._check(loss, step + 1)
                    self.state.save(self.path, step + 1, accelerator.is_main_process)
            unwrap(accelerator, prepared)
        self.state.load_ema(self.whole)

    def _progress(self, end: int) -> tqdm:
        hidden, total = not self.accelerator.is_main_process, self.config.steps
        return tqdm(
            range(self.start, end), initial=self.start, total=total, desc=self.name, disable=hidden, mininterval=5
        )

    def prepare(self) -> tuple[nn.Module, Any]:
        """Module and optimizer as Accelerate wraps them."""
        module = wrap(self.accelerator, self.module, self.sharded)
        return module, self.accelerator.prepare(self.optimizer)

    def step(self, module: nn.Module, optimizer: Any, step: int) -> tuple[Tensor, Figures]:
        """One optimizer step and the EMA's; this process's mean loss, and the figures of its last part."""
        accelerator, config = self.accelerator, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        losses = []
        for number in range(config.accumulate):
            with accelerator.accumulate(module):
                part = number * accelerator.num_processes + accelerator.process_index
                loss, figures = self.loss_function(module, step, generator_of(config.seed, step, part))
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.state.parameters.values(), config.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.state.average(min(config.ema, (1 + step) / (10 + step)))
        return torch.stack(losses).mean(), figures

    def _tell(self, progress: tqdm, step: int, loss: Tensor, figures: Figures) -> None:
        """Progress bar, log and trackers: the mean loss of all processes, and the first one's figures."""
        loss = self.accelerator.reduce(loss, "mean")
        self._check(loss, step)
        told = {"loss": float(loss), **{name: float(value) for name, value in figures.items()}}
        if self.accelerator.is_main_process:
            progress.set_postfix({name: f"{value:.4g}" for name, value in told.items()}, refresh=False)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **told}) + "\n")
        self.accelerator.log({**told, "learning_rate": self.optimizer.param_groups[0]["lr"]}, step=step)

    def _check(self, loss: Tensor, step: int) -> None:
        if not bool(loss.isfinite()):
            raise DivergedError(
                f"the loss of {self.name} is {float(loss)} at step {step}: the state before is kept; look at the data, "
                "or lower the learning rate and delete the state to start again"
            )


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
