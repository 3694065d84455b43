"""Keep unfinished trainings of the miniature in half precision, and take them up again on another machine.

    python unfinished_build/keep_states.py keep       # miniature/build/*.safetensors → unfinished_build
    python unfinished_build/keep_states.py restore    # and back; Adam's moments begin anew

Only for the time in which the redrawn world's weights are trained; the folder goes with the last stage.
"""

import sys
from pathlib import Path

from difflora_core.files import read_tensors, write_tensors

HERE = Path(__file__).parent
BUILD = HERE.parent / "miniature" / "build"
RUNS = ("vae",)
BEST = ("lae_finetuning_best", "difflora_finetuning_best")
"""Whole modules at their best, with the history."""


def keep() -> None:
    """Write the EMA of every run."""
    for path in (BUILD / f"{run}.safetensors" for run in RUNS):
        if path.exists():
            tensors, metadata = read_tensors(path)
            kept = {name: tensor.half() for name, tensor in tensors.items() if name.startswith("ema.")}
            write_tensors(HERE / path.name, kept, {"step": metadata["step"]})
            print(path.name, metadata["step"], "steps")
    for path in (BUILD / f"{name}.safetensors" for name in BEST):
        if path.exists():
            tensors, metadata = read_tensors(path)
            halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
            write_tensors(HERE / path.name, halves, metadata)


def restore() -> None:
    """Write states whose parameters and EMA are the kept ones."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for path in (HERE / f"{run}.safetensors" for run in RUNS):
        if path.exists() and not (BUILD / path.name).exists():
            tensors, metadata = read_tensors(path)
            ema = {name: tensor.float() for name, tensor in tensors.items()}
            model = {name.replace("ema.", "model.", 1): tensor.clone() for name, tensor in ema.items()}
            write_tensors(BUILD / path.name, {**ema, **model}, {"step": metadata["step"]})
    for path in (HERE / f"{name}.safetensors" for name in BEST):
        if path.exists() and not (BUILD / path.name).exists():
            tensors, metadata = read_tensors(path)
            floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
            write_tensors(BUILD / path.name, floats, metadata)


if __name__ == "__main__":
    {"keep": keep, "restore": restore}[sys.argv[1]]()
