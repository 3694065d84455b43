"""The paper's toy experiment, rebuilt: are LoRA weights easier to compress than full weight changes?

    python -m training toy-experiment --out output/toy_experiment

The paper says that LoRAs are easier to compress than the weights of an MLP, and describes no setup; this one is ours.
A small MLP is trained on the average of a family of tasks, each of which is the function of another MLP whose weights
were moved along a few directions of the family. It is then adapted to every task, from a few noisy samples, in four
ways:

    full              all matrices free, from the average network
    LoRA              a LoRA of the average network; all tasks start from the same A, as in our DreamBooth training
    full, own starts  all matrices free, from random weights of the task's own
    LoRA, own starts  a LoRA of the average network; every task starts from an A of its own

Each kind of weights is compressed by principal components and by the LAE's convolutions, fitted on some tasks and
evaluated on others: what share of the matrices' variance around their mean is lost (for a LoRA that of ΔW), and what
share of the improvement in task loss is preserved. At equal ratio (weights : latent values) and at equal latent size.

Result, with the defaults: the paper's claim holds against networks that each start from weights of their own, which
hardly compress at all; it does not hold against full changes of one common network, which compressed better than LoRAs
at every ratio and latent size. A common start is what makes either compressible: without one, LoRAs lost about as much
at equal ratio as networks do.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from difflora_core.files import replacing
from difflora_core.seeds import generator_for
from training.engine.charts import draw_panels

from .compression import compress
from .report import COMPRESSORS, Entries, latent_sizes, panels, table
from .tasks import WIDTHS, ToySettings, Weights, adapt, draw_family, task_loss, train_base

EVALUATION_SAMPLES = 256


def run_seed(settings: ToySettings, seed: int) -> Entries:
    """Run one family of tasks; one entry of held-out metrics per kind of weights, compressor and latent size."""
    count = settings.tasks + settings.held_out
    tasks = draw_family(count, seed)
    base = train_base([matrix[: settings.tasks] for matrix in tasks], settings.steps, seed)
    adapted = adapt(tasks, base, settings, seed)
    lora_size = adapted["LoRA"].flat.shape[1]
    generator = generator_for(seed, "toy experiment", "evaluation")
    x = torch.randn(settings.held_out, EVALUATION_SAMPLES, WIDTHS[0], generator=generator)
    held_out = [matrix[settings.tasks :] for matrix in tasks]
    unadapted = task_loss(held_out, base, [matrix * 0 for matrix in held_out], x).mean()
    entries: Entries = []
    for kind, weights in adapted.items():
        for compressor in COMPRESSORS:
            for latent in latent_sizes(kind, lora_size, weights.flat.shape[1]):
                flat = compress(compressor, weights, settings.tasks, latent, settings.autoencoder_steps, seed)
                case: dict[str, float | str] = {"seed": seed, "kind": kind, "compressor": compressor, "latent": latent}
                entries.append(case | _evaluate(held_out, weights, flat, latent, x, float(unadapted)))
    return entries


def _evaluate(
    held_out: list[Tensor], weights: Weights, compressed: Tensor, latent: int, x: Tensor, unadapted: float
) -> dict[str, float | str]:
    """Metrics of compressed weights on held-out tasks, the last ones; the compressor was fitted on the others."""
    fitted = len(weights.flat) - len(x)
    changes, decoded = weights.matrices(weights.flat), weights.matrices(compressed[fitted:])
    variance = sum(((change[fitted:] - change[:fitted].mean(0)).square().sum() for change in changes), torch.zeros(()))
    error = sum(
        ((new - old[fitted:]).square().sum() for new, old in zip(decoded, changes, strict=True)), torch.zeros(())
    )
    adapted = float(task_loss(held_out, weights.base, [change[fitted:] for change in changes], x).mean())
    loss = float(task_loss(held_out, weights.base, decoded, x).mean())
    size = weights.flat.shape[1]
    return {
        "weights": size,
        "ratio": size / latent,
        "error": float(error / variance),
        "loss": loss,
        "loss_unadapted": unadapted,
        "loss_adapted": adapted,
        "preserved": (unadapted - loss) / (unadapted - adapted),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("output/toy_experiment"), help="folder for chart and metrics")
    parser.add_argument("--seeds", type=int, default=3, help="families of tasks")
    parser.set_defaults(run=lambda arguments: toy_experiment(arguments.out, arguments.seeds))


def toy_experiment(folder: Path, seeds: int, settings: ToySettings | None = None) -> Entries:
    """Run the experiment, write toy_experiment.json and toy_experiment.png into the folder and print the table.

    Raises:
        ValueError: There is no seed, or the folder cannot be one.
    """
    if seeds < 1:
        raise ValueError(f"--seeds is at least 1, found {seeds}.")
    if file := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise ValueError(f"--out is the folder of chart and metrics, found the file {file}.")
    torch.set_num_threads(1)
    start = time.perf_counter()
    settings = settings or ToySettings()
    entries = [entry for seed in range(seeds) for entry in run_seed(settings, seed)]
    with replacing(folder / "toy_experiment.json") as partial:
        partial.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    draw_panels(folder / "toy_experiment.png", panels(entries))
    print(table(entries))
    print(f"{time.perf_counter() - start:.0f} s; {folder / 'toy_experiment.png'}")
    return entries
