"""Trained face networks become ONNX files that InsightFace routes by their shapes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from .alignment import CROP


def settle(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the batch norms' means and variances anew (plain averages over `batches`) and switch to evaluation.

    Needed because the averaged (EMA) weights never ran in training: their statistics are their own.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    network.eval()


def export_recognizer(network: nn.Module, path: Path) -> None:
    """One square input of 112 pixels, (x − 127.5) / 127.5, RGB; one output (n, 512)."""
    _export(network, torch.zeros(1, 3, CROP, CROP), path, ["embedding"], {"images": {0: "n"}, "embedding": {0: "n"}})


def export_detector(network: nn.Module, path: Path, outputs: list[str]) -> None:
    """One input of any height and width that 32 divides, (x − 127.5) / 128, RGB; nine outputs."""
    axes = {"images": {2: "height", 3: "width"}}
    _export(
        network, torch.zeros(1, 3, 128, 160), path, outputs, axes | {name: {0: f"{name}_cells"} for name in outputs}
    )


def _export(
    network: nn.Module, example: Tensor, path: Path, outputs: list[str], axes: dict[str, dict[int, str]]
) -> None:
    """The file appears only when it is complete and onnx's checker accepts it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    network = network.eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            str(partial),
            input_names=["images"],
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )
    onnx.checker.check_model(str(partial))
    partial.replace(path)
