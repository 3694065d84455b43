"""The training loop that all networks share, on Hugging Face Accelerate: any number of processes, EMA, resumable.

The batch of a step consists of micro-batches, `accumulate` × processes of them. A micro-batch is a function of (seed,
step, its number), whichever process draws it: N processes give the same result as one that accumulates N micro-batches,
and a run that was killed and started again the same as one that was not. The state holds no random number generator.
One thread per process: on a machine with busy neighbors two processes outrun one process with two threads.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from difflora_core.files import FULL, replacing
from difflora_core.seeds import generator_for

from .accelerator import close_trackers, open_accelerator, unwrap, wrap
from .batches_ahead import BatchesAhead, LossAsObjective, LossFunction, Metrics, Objective
from .config import TrainConfig, cosine_decay, linear_warmup
from .sharding import shard
from .state import TrainState

LOG_EVERY = 20  # steps
FINAL_RATE = 0.05  # of the peak


class DivergedError(RuntimeError):
    """The loss or the weights are not finite any more."""


def train(
    module: nn.Module,
    loss_function: LossFunction,
    config: TrainConfig,
    folder: Path,
    name: str,
    until: int | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train a module in place, then load its EMA weights into it.

    Args:
        module: What is trained.
        loss_function: See `LossFunction`. It draws everything from the generator, which is on the CPU, and moves it to
            the module's device. An `Objective` is drawn ahead.
        config: Of the run.
        folder: Where the state lies (folder/name.safetensors) and the log (folder/name.jsonl). The first process
            writes them; the others have to see the folder.
        name: Of the run.
        until: The step at which to stop, to be continued by another call; None is the end.
        accelerator: One that `open_accelerator` gave, where its trackers are to outlive this call.

    Raises:
        ValueError: The state in the folder is that of another network.
        DivergedError: The loss or the weights are not finite any more; the last state is kept.
        OSError: The disk is full; the last state is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = open_accelerator(config, folder, name) if accelerator is None else accelerator
    try:
        TrainingLoop(module, loss_function, config, folder, name, own).run(config.steps if until is None else until)
        own.wait_for_everyone()  # no process reads the state of the next call before it is written
    finally:
        own.free_memory()
        if accelerator is None:
            close_trackers(own)


class TrainingLoop:
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
        self.objective = loss_function if isinstance(loss_function, Objective) else LossAsObjective(loss_function)
        self.config, self.name, self.accelerator = config, name, accelerator
        self.path, self.log_path = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
        self.full_module = module.to(accelerator.device)
        self.sharded = config.shard and accelerator.num_processes > 1
        self.module = shard(self.full_module, accelerator.num_processes) if self.sharded else self.full_module
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.state = TrainState(self.module, self.optimizer)
        self.start = self.state.load(self.path) if self.path.exists() else 0

    def run(self, until: int) -> None:
        """Train up to a step; the full module then holds the EMA weights."""
        config, accelerator, end = self.config, self.accelerator, min(until, self.config.steps)
        if self.start < end:
            if accelerator.is_main_process:
                cut_log(self.log_path, self.start)
            prepared, optimizer = self.prepare()
            with self.batches(range(self.start, end)) as batches:
                for step in (progress := self._progress_bar(end)):
                    loss, metrics = self.step(prepared, optimizer, step, batches)
                    if (step + 1) % LOG_EVERY == 0:
                        self._log(progress, step + 1, loss, metrics)
                    if (step + 1) % config.save_every == 0 or step + 1 == end:
                        self._check_finite(accelerator.reduce(loss, "mean"), step + 1)  # of all processes
                        self._check_weights(step + 1)
                        self.state.save(self.path, step + 1, accelerator.is_main_process)
            unwrap(accelerator, prepared)
        self.state.load_ema(self.full_module)

    def prepare(self) -> tuple[nn.Module, Any]:
        """Return module and optimizer as Accelerate wraps them."""
        module = wrap(self.accelerator, self.module, self.sharded)
        return module, self.accelerator.prepare(self.optimizer)

    def batches(self, steps: range) -> BatchesAhead[tuple[int, int], Any]:
        """This process's micro-batches of some steps, in order; drawn inside a `with` statement."""
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        keys = ((step, number * processes + own) for step in steps for number in range(self.config.accumulate))

        def draw(key: tuple[int, int]) -> Any:
            step, micro_batch = key
            return self.objective.draw(step, generator_for(self.config.seed, step, micro_batch))

        return BatchesAhead(draw, keys, self.accelerator.device)

    def step(self, module: nn.Module, optimizer: Any, step: int, batches: Iterator[Any]) -> tuple[Tensor, Metrics]:
        """Do one step of the optimizer and of the EMA; this process's mean loss, and its last micro-batch's metrics."""
        accelerator, config = self.accelerator, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        losses = []
        for _ in range(config.accumulate):
            with accelerator.accumulate(module):
                loss, metrics = self.objective.loss(module, next(batches))
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.state.parameters.values(), config.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.state.update_ema(min(config.ema, (1 + step) / (10 + step)))
        return torch.stack(losses).mean(), metrics

    def _progress_bar(self, end: int) -> tqdm:
        hidden, total = not self.accelerator.is_main_process, self.config.steps
        return tqdm(
            range(self.start, end), initial=self.start, total=total, desc=self.name, disable=hidden, mininterval=5
        )

    def _log(self, progress: tqdm, step: int, loss: Tensor, metrics: Metrics) -> None:
        """Progress bar, log file and trackers: the mean loss of all processes, and the first one's metrics."""
        loss = self.accelerator.reduce(loss, "mean")
        self._check_finite(loss, step)
        logged = {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}
        if self.accelerator.is_main_process:
            progress.set_postfix({name: f"{value:.4g}" for name, value in logged.items()}, refresh=False)
            append_line(self.log_path, json.dumps({"step": step, **logged}))
        self.accelerator.log({**logged, "learning_rate": self.optimizer.param_groups[0]["lr"]}, step=step)

    def _check_finite(self, loss: Tensor, step: int) -> None:
        if not bool(loss.isfinite()):
            raise DivergedError(
                f"the loss of {self.name} is {float(loss)} at step {step}; the last state is kept. Check the data, or "
                "lower the learning rate and delete the state to start again"
            )

    def _check_weights(self, step: int) -> None:
        """Check what a state would keep: a gradient may be NaN where the loss is not."""
        broken = self.accelerator.reduce(self.state.count_not_finite(), "sum")  # of all processes, each with its share
        if broken:
            raise DivergedError(
                f"at step {step} the weights of {self.name} are not finite, because a gradient was not; the last state "
                "is kept. Check the data, or lower the learning rate and delete the state to start again"
            )


def append_line(path: Path, line: str) -> None:
    """Write a line at the end of a log.

    Raises:
        OSError: The system refuses; of a full disk it is said what is kept.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        if error.errno not in FULL:
            raise
        problem = f"{os.strerror(error.errno)}, so this log was not continued"
        hint = "the last state is kept: free some space and run the same command again"
        raise OSError(error.errno, f"{problem}; {hint}", str(path)) from error


def cut_log(path: Path, step: int) -> None:
    """Remove from a log what a run wrote after its last state, before it was killed: it is done and logged again.

    Args:
        path: Of the log, which may be missing.
        step: Of the state.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if _logged_step(line) <= step]
    if kept != lines:
        with replacing(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")


def _logged_step(line: str) -> float:
    """Step of a line of the log; infinite if the line was not written to its end."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def load_trained(module: nn.Module, folder: Path, name: str) -> None:
    """Load the EMA weights of a (possibly unfinished) run into a module.

    Raises:
        FileNotFoundError: There is no such run in the folder.
    """
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train {name} first (python -m miniature build)")
    with safe_open(path, "pt") as file, torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(file.get_tensor(f"ema.{key}"))


def _rate(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return linear_warmup(step, config.warmup)
    return cosine_decay((step - config.warmup) / max(1, config.steps - config.warmup), FINAL_RATE)
