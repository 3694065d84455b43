"""Run by a test in its own process: what every node does with impossible values at its widgets, as JSON.

python node_inputs.py HOST BASE
"""

import asyncio
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from host_process import ROOT, base, load_pack, module  # first: it makes ComfyUI importable
from safetensors.torch import load_file, save_file

from comfy_api.latest import io  # isort: skip


def impossible(widget: Any) -> Iterator[Any]:
    """Values that a widget must refuse."""
    if isinstance(widget, io.Combo.Input):
        yield from ("no such choice", "", None)
    elif isinstance(widget, io.Boolean.Input):
        yield from ("false", "", None, 2, math.nan)
    else:
        yield from (math.nan, math.inf, -math.inf, widget.min - 1, widget.max + 1, 10**400, "1", None)
    if isinstance(widget, io.Int.Input):
        yield widget.min + 0.5


def possible(widget: Any) -> list[Any]:
    """Values that a widget must accept: all choices, on and off, or the ends of the range and the default."""
    if isinstance(widget, io.Combo.Input):
        return list(widget.options)
    if isinstance(widget, io.Boolean.Input):
        return [True, False, 1, 0]
    return [widget.min, widget.max, widget.default]


def error(node: Any, arguments: dict[str, Any]) -> str:
    """Run a node whose sockets get nothing, and return the error."""
    try:
        node.execute(**as_host_passes(node.define_schema(), arguments))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refused(check: Any, schema: Any, arguments: dict[str, Any]) -> str:
    """Return the error of the check alone, or nothing."""
    try:
        check(schema, as_host_passes(schema, arguments))
    except ValueError as fault:
        return str(fault)
    return ""


def as_host_passes(schema: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which the host runs a node: lists of values, if the node asks for lists."""
    return {name: [value] for name, value in arguments.items()} if schema.is_input_list else arguments


def names() -> dict[str, str]:
    """Return what Save LoRA makes of file names, or its error."""
    made = {}
    for name in NAMES:
        try:
            made[name] = module("nodes.save_lora").file_prefix(name)
        except ValueError as fault:
            made[name] = f"error: {fault}"
    return made


def damaged_clip_vision() -> list[str]:
    """Return the errors of Load CLIP Vision about a folder of which one file after another is damaged."""
    source = ROOT / "miniature" / "weights" / "clip_vision" / "miniature"
    found = []
    for name, content in (
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "resnet"}'),
        (
            "config.json",
            (source / "config.json").read_text(encoding="utf-8").replace('"projection_dim": ', '"projection_dim": 1'),
        ),
        ("preprocessor_config.json", "[]"),
        ("preprocessor_config.json", "{}"),
    ):
        folder = Path(base) / "clip"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        (folder / name).write_text(content, encoding="utf-8")
        try:
            module("nodes.loaders.load_clip_vision").load_folder(folder / "model.safetensors")
        except ValueError as fault:
            found.append(str(fault))
    return found


def whole_clip() -> bool:
    """Return whether the image encoder of a whole CLIP, as it is published, is the one of a folder without the rest."""
    loader = module("nodes.loaders.load_clip_vision")
    source, folder = ROOT / "miniature" / "weights" / "clip_vision" / "miniature", Path(base) / "whole"
    shutil.copytree(source, folder)
    vision = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = {"model_type": "clip", "vision_config": vision, "projection_dim": vision.pop("projection_dim")}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rest = {"logit_scale": torch.zeros(()), "text_model.final_layer_norm.weight": torch.zeros(2)}
    save_file(load_file(source / "model.safetensors") | rest, folder / "model.safetensors")
    image = torch.linspace(0, 1, 3 * 40 * 40).view(1, 40, 40, 3)
    part, whole = (
        loader.load_folder(place / "model.safetensors").encode_image(image)["image_embeds"]
        for place in (source, folder)
    )
    return torch.equal(part, whole)


def alphas() -> dict[str, list[str]]:
    """Return dtype and shape of the alphas that Save LoRA writes: one tensor for all modules, and plain numbers."""
    factors = {f"{name}.lora_{role}.weight": torch.ones(2, 2) for name in "ab" for role in ("up", "down")}
    made = {}
    for kind, alpha in (("one tensor", torch.tensor(2.0)), ("numbers", 2.0)):
        tensors, _ = module("nodes.save_lora").prepare(factors | {"a.alpha": alpha, "b.alpha": alpha}, "kohya")
        made[kind] = [f"{tensors[f'{name}.alpha'].dtype} {float(tensors[f'{name}.alpha'])}" for name in "ab"]
        made[kind].append(str(len({tensor.data_ptr() for tensor in tensors.values()})))
    return made


WIDGETS = io.Int.Input | io.Float.Input | io.Combo.Input | io.Boolean.Input
NAMES = ["", "  ", "people/", "a\\b", "Łukasz %year%", "conny", "n" * 236]
NAMES += ["n" * 237, "é" * 118 + "n", "d" * 256 + "/x", "con", "COM1/x", "NUL.txt", "a:b", "a\nb", "\ud800"]
NAMES += ["../x", "x/..", ".", "/etc/x", "a//b", "x.", "x /y"]
(Path(base) / "models" / "difflora").mkdir(parents=True)
(Path(base) / "models" / "difflora" / "person.safetensors").touch()
asyncio.run(load_pack().comfy_entrypoint())
check = module("nodes.input_checks").check_inputs
tried: list[tuple[str, str]] = []
accepted: list[str] = []
for node in module("nodes").NODES:
    schema = node.define_schema()
    sockets = {one.id: object() for one in schema.inputs}
    widgets = [one for one in schema.inputs if isinstance(one, WIDGETS)]
    for widget in widgets:
        name = f"{schema.node_id}.{widget.id}"
        others = sockets | {one.id: possible(one)[-1] for one in widgets if possible(one)}
        tried += [(f"{name} = {value}", error(node, others | {widget.id: value})) for value in impossible(widget)]
        accepted += [f"{name} = {value}" for value in possible(widget) if refused(check, schema, {widget.id: value})]

many = io.Schema("many", inputs=[io.Combo.Input("file", options=[str(number) for number in range(30)])])
listed = io.Schema("listed", inputs=[io.Int.Input("seed", min=0, max=3)], is_input_list=True)
found = {
    "tried": tried,
    "refused though possible": accepted,
    "many": refused(check, many, {"file": "30"}),
    "lists": [
        refused(lambda schema, _, seeds=seeds: check(schema, {"seed": seeds}), listed, {}) for seeds in ([0, 3], [0, 4])
    ],
    "names": names(),
    "clip vision": damaged_clip_vision(),
    "whole clip": whole_clip(),
    "alphas": alphas(),
}
print(json.dumps(found))  # noqa: T201
