"""Run by a test in its own process: errors of nodes about what a user may connect or have on disk, as JSON.

python node_errors.py HOST BASE
"""

import asyncio
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from host_process import base, load_pack, module  # first: it makes ComfyUI importable

import folder_paths  # isort: skip


def error(name: str, **arguments: Any) -> str:
    """Run a node as the host does and return its error."""
    node = next(node for node in module("nodes").NODES if node.define_schema().node_id == name)
    node.hidden = SimpleNamespace(unique_id=None)
    if node.define_schema().is_input_list:
        arguments = {key: value if isinstance(value, list) else [value] for key, value in arguments.items()}
    try:
        node.execute(**arguments)
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    return "no error"


def refine(**arguments: Any) -> str:
    """Return the error of Refine LoRA, which comes before the LoRA and the model are checked."""
    settings = {"prompt": "a person", "steps": 1, "learning_rate": 1e-3, "batch_size": 1, "seed": 0}
    links = {"model": object(), "clip": object(), "vae": object(), "lora": [], "images": torch.ones(1, 64, 64, 3)}
    return error("DiffLoRARefine", **links | settings | {"gradient_checkpointing": False} | arguments)


def mix(*widths: int) -> str:
    """Return the error of Mix Features with image features of these widths."""
    outputs = [{"image_embeds": torch.ones(1, width)} for width in widths]
    return error("DiffLoRAMixFeatures", model=None, mode="image", image_share=0.5, clip_vision_output=outputs)


def save(refused_with: int | None = None, **arguments: Any) -> str:
    """Return the error of Save LoRA, perhaps into a folder in which the system refuses to make files."""
    real = os.open

    def refusing(path: Any, *options: Any, **named: Any) -> int:
        if refused_with is not None and str(path).endswith(".partial"):
            raise OSError(refused_with, os.strerror(refused_with), str(path))
        return real(path, *options, **named)

    settings = {"lora": {"a.alpha": 1.0}, "filename_prefix": "person", "format": "kohya", "folder": "models/loras"}
    os.open = refusing
    try:
        return error("DiffLoRASave", **settings | arguments)
    finally:
        os.open = real


def choices_beside_what_is_gone() -> dict[str, Any]:
    """Return choices of loaders whose folders have links to files that are gone, and a folder nobody may read."""
    models = Path(base) / "models"
    for folder in ("difflora", "clip_vision/gone", "clip_vision/here", "insightface/models/locked"):
        (models / folder).mkdir(parents=True)
    for folder in ("difflora", "clip_vision/gone"):
        (models / folder / "model.safetensors").symlink_to(models / "nothing")
    for file in ("gone/config.json", "here/config.json", "here/model.safetensors"):
        (models / "clip_vision" / file).touch()
    locked, may = models / "insightface" / "models" / "locked", os.access
    (locked / "detector.onnx").touch()
    os.access = lambda path, mode: Path(path) != locked and may(path, mode)
    try:
        packs = module("nodes.loaders.load_face_analysis").packs()
    finally:
        os.access = may
    return {
        "image encoders": module("nodes.loaders.load_clip_vision").folders(),
        "checkpoints": module("nodes.loaders.difflora_folder").face_encoders(),
        "packs": list(packs),
    }


asyncio.run(load_pack().comfy_entrypoint())
(Path(folder_paths.get_folder_paths("loras")[0])).mkdir(parents=True)
(Path(folder_paths.get_folder_paths("loras")[0]) / "file").touch()
image = torch.ones(1, 8, 8, 3)
found = {
    "no clip": refine(clip=None),
    "no vae": refine(vae=None),
    "small images": refine(images=torch.ones(1, 64, 63, 3)),
    "two image encoders": mix(3, 4, 3),
    "no image": error("DiffLoRAImageGrid", images=[None], labels=["a"], columns=0),
    "number as label": error("DiffLoRAImageGrid", images=[image], labels=[0.5], columns=0),
    "no identity": error("DiffLoRALoadIdentity", identity="no identity found"),
    "no LoRA": error("DiffLoRALoadLoRA", lora_name="no LoRA found"),
    "empty LoRA": save(lora={}),
    "no permission": save(errno.EACCES),
    "read-only": save(errno.EROFS),
    "folder is a file": save(filename_prefix="file/person"),
    "choices": choices_beside_what_is_gone(),
}
print(json.dumps(found))  # noqa: T201
