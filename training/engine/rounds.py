"""Training in rounds: after each one people outside the training are asked, and the best weights are kept."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from difflora_core.files import read_tensors, write_tensors

from .loop import LossFunction, TrainConfig, close_trackers, open_accelerator, train
from .state import check_same_tensors

Figures = dict[str, float]
Report = Callable[[str, Figures], None]


def train_in_rounds(
    module: nn.Module,
    loss: LossFunction,
    loop: TrainConfig,
    folder: Path,
    name: str,
    rounds: int,
    prepare: Callable[[], dict[str, Figures]],
    validate: Callable[[], Figures],
    report: Report,
    patience: int | None = None,
    by: str = "r2",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train `module` in place and leave in it the weights (EMA) of the round with the highest validated figure `by`.

    prepare() puts the module at its start and returns figures by name (empty if the start is no candidate). report is
    told of them and of every round, in a resumed run of the earlier ones too. A round whose figures lack `by` is told
    and no candidate. patience: stop when so many rounds in a row were no improvement. settings: JSON-ready; a run is
    not resumed with other ones. Resumable: folder/name.safetensors is the training's state,
    folder/name_best.safetensors the whole module (buffers, too) at its best, with all figures.

    With several processes all of them prepare and validate, so that none waits for long; the first one's figures count,
    and it alone reports and writes.

    Raises:
        ValueError: the folder holds a run with other settings, of which the first is named, or of another network.
    """
    accelerator = open_accelerator(loop, folder, name)
    try:
        best = _Best(module, folder / f"{name}_best.safetensors", by, settings or {}, accelerator, report)
        best.begin(prepare)
        for number in range(1, rounds + 1):
            until = loop.steps * number // rounds
            if (label := f"step {until}") in best.told:
                continue
            if patience is not None and best.rounds_without_improvement() >= patience:
                break
            train(module, loss, loop, folder, name, until, accelerator)
            best.add(label, until, validate())
        module.load_state_dict(best.weights)
    finally:
        close_trackers(accelerator)


class _Best:
    """The best weights so far and the figures of all rounds, in memory and on disk."""

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        by: str,
        settings: Mapping[str, Any],
        accelerator: Accelerator,
        report: Report,
    ) -> None:
        self.module, self.path, self.by, self.settings = module, path, by, settings
        self.accelerator, self.report = accelerator, report
        self.told: dict[str, Figures] = {}
        self.weights: dict = {}

    def begin(self, prepare: Callable[[], dict[str, Figures]]) -> None:
        """Take up what is on disk, or prepare a start."""
        resumed = self.path.exists()
        self.accelerator.wait_for_everyone()  # all have looked before the first one writes
        if resumed:
            self.weights, metadata = read_tensors(self.path)
            _check_settings(self.path, json.loads(metadata.get("settings", "{}")), self.settings)
            check_same_tensors(self.path, self.weights, self.module.state_dict())
            self.told = json.loads(metadata["figures"])
            self.module.load_state_dict(self.weights)
        else:
            self.told = self._agreed(prepare())
            self.weights = _copy(self.module)
            self._write()
        if self.accelerator.is_main_process:
            for known, figures in self.told.items():
                self.report(known, figures)

    def add(self, label: str, step: int, found: Figures) -> None:
        """Settle a round: its weights are those that the module holds."""
        figures = self._agreed(found)
        if figures.get(self.by, float("-inf")) > max(self._scores(), default=float("-inf")):
            self.weights = _copy(self.module)
        self.told[label] = figures
        self._write()
        self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=step)
        if self.accelerator.is_main_process:
            self.report(label, figures)

    def rounds_without_improvement(self) -> int:
        """How many rounds are newer than the best."""
        scores = list(self._scores())
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def _scores(self) -> Iterator[float]:
        return (figures[self.by] for figures in self.told.values() if self.by in figures)

    def _write(self) -> None:
        if self.accelerator.is_main_process:
            metadata = {"figures": json.dumps(self.told)}
            if self.settings:
                metadata["settings"] = json.dumps(self.settings)
            write_tensors(self.path, self.weights, metadata)
        self.accelerator.wait_for_everyone()

    def _agreed(self, figures: Any) -> Any:
        """The first process's figures: the last bits of another GPU's may differ."""
        box = [figures]
        broadcast_object_list(box)
        return box[0]


def _check_settings(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first setting that differs; settings that nobody wrote down are not compared."""
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


def _copy(module: nn.Module) -> dict:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
