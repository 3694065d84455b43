"""A training run that the caller's own loop evaluates: the best weights are kept, and bad runs stop early.

with EvaluatedRun(module, loss_function, config, evaluation, folder, "lae", settings) as run:
    if run.is_new:
        run.record(0, evaluate(module))     # the untrained module is a candidate, too
    for step in run:                        # trains to the next evaluation; the module then holds the EMA weights
        run.record(step, evaluate(module))
    run.load_best()
"""

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from difflora_core.fields import read_json
from difflora_core.files import read_tensors, write_tensors

from .accelerator import close_trackers, open_accelerator
from .batches_ahead import LossFunction
from .config import EvaluationConfig, TrainConfig
from .loop import train
from .state import check_same_tensors

History = dict[int, dict[str, float]]
"""Step → metrics of the evaluation after it; step 0 is the start."""
MICRO_BATCHES = "micro_batches"
"""Of a step, in all processes together: with it a resumed run may have another number of processes."""
MAY_CHANGE = ("device", "save_every", "log_with", "compile", "shard", "unused_parameters")
"""Settings of the loop that a resumed run may change."""


class EvaluatedRun:
    """Train a module in place, from one evaluation to the next.

    Resumable: folder/name.safetensors is the state of the training, folder/name_best.safetensors the whole module
    (buffers, too) at its best, with the history. With several processes all of them evaluate, so that none waits for
    long; the metrics of the first one count, and it alone writes.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_function: LossFunction,
        config: TrainConfig,
        evaluation: EvaluationConfig,
        folder: Path,
        name: str,
        settings: Mapping[str, Any] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Begin a run, or resume it: then the module holds the best weights so far.

        Args:
            module: What is trained.
            loss_function: See `training.engine.batches_ahead.LossFunction`.
            config: Of the run.
            evaluation: How often to evaluate, and which weights to keep.
            folder: Of all files.
            name: Of the run, in the names of its files.
            settings: JSON-ready; a run that was begun with other settings is not resumed.
            accelerator: From `open_accelerator`, if the caller has one; it stays open.

        Raises:
            ValueError: The folder holds a run with other settings, of which the first is named, or of another network.
        """
        self.module, self.loss_function, self.config, self.evaluation = module, loss_function, config, evaluation
        self.folder, self.name = folder, name
        self.path = folder / f"{name}_best.safetensors"
        self.history: History = {}
        self._own_accelerator = accelerator is None
        self.accelerator = accelerator or open_accelerator(config, folder, name)
        self.settings = dict(settings or {})
        if self.settings:
            self.settings[MICRO_BATCHES] = config.accumulate * self.accelerator.num_processes
        self.is_new = not self.path.exists()
        """Whether nothing was evaluated before: the caller then prepares the module and may record step 0."""
        self.accelerator.wait_for_everyone()  # all processes have looked before the first one writes
        self._best = _copy(module) if self.is_new else self._resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._own_accelerator:
            close_trackers(self.accelerator)

    def __iter__(self) -> Iterator[int]:
        """Train to the next evaluation and yield its step, until the end or until patience is lost."""
        if self.is_new and not self.history:
            self._best = _copy(self.module)  # whatever the caller has made of it since
            self._write()
        last, interval = self.config.steps, self.evaluation.interval
        for step in (*range(interval, last, interval), *([last] if last else [])):
            if step in self.history:
                continue
            patience = self.evaluation.patience
            if patience is not None and self._evaluations_without_improvement() >= patience:
                return
            train(self.module, self.loss_function, self.config, self.folder, self.name, step, self.accelerator)
            yield step

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of an evaluation, and the module's weights if the monitored metric is the best so far.

        An evaluation without the monitored metric, or where it is not finite, is recorded and no candidate.
        """
        agreed = self._of_first_process(dict(metrics))
        best = max(self._scores(), default=-math.inf)
        self.history[step] = agreed
        if step == 0 or max(self._scores(), default=-math.inf) > best:
            self._best = _copy(self.module)
        self._write()
        self.accelerator.log({f"validation/{name}": value for name, value in agreed.items()}, step=step)
        self._print(step)

    def load_best(self) -> None:
        """Load the best weights into the module.

        Raises:
            ValueError: The monitored metric was finite in no evaluation, so that only the start's weights were kept.
        """
        monitor = self.evaluation.monitor
        if any(self.history) and max(self._scores(), default=-math.inf) == -math.inf:  # any: a step above 0
            found = ", ".join(dict.fromkeys(name for metrics in self.history.values() for name in metrics)) or "nothing"
            raise ValueError(
                f"{self.path}: {monitor} was not measured in any of {len(self.history)} evaluations, or is not finite, "
                f"so that no trained weights were kept; measured were {found}. Monitor another of these in another "
                "output folder, or lower the learning rate"
            )
        self.module.load_state_dict(self._best)

    def _resume(self) -> dict[str, Tensor]:
        best, metadata = read_tensors(self.path)
        found = read_json(metadata.get("settings", "{}"), f"{self.path}: the record of its settings")
        micro_batches = found.pop(MICRO_BATCHES, None)  # older records have loop.accumulate alone
        if micro_batches is not None and "loop" in found:
            found["loop"].pop("accumulate", None)
        _check_settings(self.path, found, self.settings)
        self.history = load_best_of_run(self.module, self.folder, self.name)
        if micro_batches is not None and self.settings and self.config.steps not in self.history:
            self._check_micro_batches(micro_batches)
        for step in self.history:
            self._print(step)
        return best

    def _check_micro_batches(self, found: int) -> None:
        """Check that a step still has as many: another batch would need another learning rate, and be other draws.

        Raises:
            ValueError: It has others; it is said what would make them as many again.
        """
        processes, own = self.accelerator.num_processes, self.settings[MICRO_BATCHES]
        if own == found:
            return
        hint = f"set loop.accumulate to {found // processes}"
        if found % processes:
            hint = f"start a number of processes that divides {found}, and set loop.accumulate to {found} / processes"
        raise ValueError(
            f"{self.path} belongs to a run with {found} micro-batches in a step, this one has {own} (processes: "
            f"{processes}, loop.accumulate: {self.config.accumulate}): {hint}, or choose another output folder."
        )

    def _print(self, step: int) -> None:
        if self.accelerator.is_main_process:
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.history[step].items())
            print(f"  {self.name}, step {step}: {metrics}", flush=True)

    def _evaluations_without_improvement(self) -> int:
        scores = list(self._scores())
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def _scores(self) -> Iterator[float]:
        monitor = self.evaluation.monitor
        found = (metrics[monitor] for metrics in self.history.values() if monitor in metrics)
        return (score if math.isfinite(score) else -math.inf for score in found)  # nothing is higher than NaN

    def _write(self) -> None:
        if self.accelerator.is_main_process:
            metadata = {"history": json.dumps(self.history)}
            if self.settings:
                metadata["settings"] = json.dumps(self.settings)
            write_tensors(self.path, self._best, metadata)

    def _of_first_process(self, metrics: dict[str, float]) -> dict[str, float]:
        """The first process's metrics: the last bits of another GPU's may differ."""
        box = [metrics]
        broadcast_object_list(box)
        return box[0]


def load_best_of_run(module: nn.Module, folder: Path, name: str) -> History:
    """Load the best weights of a run, which perhaps other processes made, into a module; return the run's history.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The file is another thing, or damaged.
    """
    path = folder / f"{name}_best.safetensors"
    best, metadata = read_tensors(path)
    history = read_json(metadata.get("history", ""), f"{path}: the history of its metrics")
    check_same_tensors(path, best, module.state_dict())
    module.load_state_dict(best)
    return {int(step): metrics for step, metrics in history.items()}


def describe_run(people: int, validation_people: int, training: Any, history: History) -> dict[str, Any]:
    """Return what a network's file says of its training, ready for JSON; training: its settings, a dataclass."""
    return {
        "people": people,
        "validation_people": validation_people,
        "date": datetime.date.today().isoformat(),
        "training": json.loads(json.dumps(asdict(training))),
        "history": history,
    }


def compared_settings(training: Any) -> dict[str, Any]:
    """Return what a resumed run may not change, for `EvaluatedRun`.

    Args:
        training: A trainer's dataclass, with its `loop` (`TrainConfig`) and `evaluation` (`EvaluationConfig`).
    """
    values = asdict(training)
    for name in MAY_CHANGE:
        del values["loop"][name]
    del values["evaluation"]["patience"]
    return values


def _check_settings(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first setting that differs; settings that the file doesn't have are not compared."""
    known, wanted = dict(_flat(found)), dict(_flat(json.loads(json.dumps(expected))))
    for name in wanted:
        if name in known and known[name] != wanted[name]:
            raise ValueError(
                f"{path} belongs to a run with {name} {known[name]!r}, the configuration says {wanted[name]!r}. Choose "
                "another output folder, or delete that run's files to start again."
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
