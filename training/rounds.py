"""Training in rounds: after each one people outside the training are asked, and the best weights are kept."""

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from difflora_core.tensor_file import read_tensors, write_tensors

from .training_loop import LossFunction, TrainConfig, train

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
) -> None:
    """Train `module` in place and leave in it the weights (EMA) of the round with the highest validated "r2".

    prepare() puts the module at its start and returns figures by name (empty if the start is no candidate). report is
    told of them and of every round, in a resumed run of the earlier ones too. patience: stop when so many rounds in a
    row were no improvement. Resumable: folder/name.safetensors is the
    training's state, folder/name_best.safetensors the whole module (buffers, too) at its best, with all figures.
    """
    best = folder / f"{name}_best.safetensors"
    if best.exists():
        weights, metadata = read_tensors(best)
        module.load_state_dict(weights)
        told: dict[str, Figures] = json.loads(metadata["figures"])
    else:
        told = prepare()
        weights = _copy(module)
        write_tensors(best, weights, {"figures": json.dumps(told)})
    for known, figures in told.items():
        report(known, figures)
    for number in range(1, rounds + 1):
        until = loop.steps * number // rounds
        if (label := f"step {until}") in told:
            continue
        if patience is not None and _rounds_without_improvement(told) >= patience:
            break
        train(module, loss, loop, folder, name, until=until)
        figures = validate()
        if figures["r2"] > max((known["r2"] for known in told.values()), default=float("-inf")):
            weights = _copy(module)
        told[label] = figures
        write_tensors(best, weights, {"figures": json.dumps(told)})
        report(label, figures)
    module.load_state_dict(weights)


def _rounds_without_improvement(told: dict[str, Figures]) -> int:
    scores = [figures["r2"] for figures in told.values()]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _copy(module: nn.Module) -> dict:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
