"""Trained face networks as ONNX files; InsightFace tells detector and recognizer by their inputs and outputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from difflora_core.files import replacing

from .alignment import CROP

HALF_FROM = 256
"""Values of a weight from which on it is stored as float16."""


def export_recognizer(network: nn.Module, path: Path) -> None:
    """Write a recognizer: one square input of 112 pixels, (x − 127.5) / 127.5, RGB; one output (n, 512)."""
    _export(network, torch.zeros(1, 3, CROP, CROP), path, ["embedding"], {"images": {0: "n"}, "embedding": {0: "n"}})


def export_detector(network: nn.Module, path: Path, outputs: list[str]) -> None:
    """Write a detector: one input of any height and width that 32 divides, (x − 127.5) / 128, RGB; nine outputs."""
    axes = {"images": {2: "height", 3: "width"}}
    _export(
        network, torch.zeros(1, 3, 128, 160), path, outputs, axes | {name: {0: f"{name}_cells"} for name in outputs}
    )


def _export(
    network: nn.Module, example: Tensor, path: Path, outputs: list[str], axes: dict[str, dict[int, str]]
) -> None:
    """Write the file; it appears only when it is complete and onnx's checker accepts it."""
    network = network.eval().to(memory_format=torch.contiguous_format)
    with replacing(path) as partial, warnings.catch_warnings():
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
        model = onnx.load(str(partial))
        store_as_half(model)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(partial))


def store_as_half(model: onnx.ModelProto) -> None:
    """Keep large weights in float16, each cast back to float32 where it is used: half the file, the same arithmetic."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= HALF_FROM:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
