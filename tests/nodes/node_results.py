"""Run by a test in its own process: what nodes return for odd inputs and settings of the host, as JSON.

python node_results.py HOST BASE
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from host_process import base, load_pack, module  # first: it makes ComfyUI importable

import comfy.model_management  # isort: skip
import folder_paths  # isort: skip

seen: list[float] = []
DTYPES = (torch.float32, torch.bfloat16)


class Faces:
    """An image's embedding is its mean color, and the reds of all images that were encoded are noted."""

    def __init__(self, analysis: object) -> None:
        self.analysis = analysis

    def find(self, image: np.ndarray) -> Any:
        """Encode an image."""
        color = torch.from_numpy(image.mean((0, 1)).astype(np.float32))
        seen.append(float(color[0]))
        return module("difflora_core.encoders.face_encoder").EncodedFace(color, torch.zeros(1), torch.zeros(1, 5))


def run(name: str, **arguments: Any) -> tuple[Any, ...]:
    """Run a node as the host does and return its outputs."""
    node = next(node for node in module("nodes").NODES if node.define_schema().node_id == name)
    node.hidden = SimpleNamespace(unique_id=None)
    return tuple(node.execute(**arguments).result)


def image(red: float, green: float, count: int = 1) -> torch.Tensor:
    """Return a batch of images of one color."""
    return torch.tensor([red, green, 0.0]).expand(count, 4, 4, 3)


def device_of_loaded_identity() -> str:
    """Return the device of a loaded latent where the host keeps values between nodes on another one than the CPU."""
    folder = Path(base) / "models" / "difflora_identities"
    module("difflora_core.denoiser.latent_file").save_latents(
        folder / "ann.safetensors", torch.ones(1, 3, 2), "x.safetensors", [{}]
    )
    before = comfy.model_management.intermediate_device
    comfy.model_management.intermediate_device = lambda: torch.device("meta")
    try:
        (latent,) = run("DiffLoRALoadIdentity", identity="ann.safetensors")
    finally:
        comfy.model_management.intermediate_device = before
    return str(latent.latents.device)


def best_candidate() -> dict[str, Any]:
    """Rank candidates with one and with two images, the second of them the person's."""
    module("nodes.comparing.similarity_and_pick_best").FaceEncoder = Faces
    batches = [image(0.0, 1.0), image(0.8, 0.2, 2), image(0.5, 0.5)]
    loras = [{"number": torch.tensor(number)} for number in range(3)]
    lora, images, mean, text = run(
        "DiffLoRAPickBest", loras=loras, images=batches, references=[image(1.0, 0.0)], face_analysis=[object()]
    )
    order = [int(line.split()[1].rstrip(":")) for line in text.splitlines()]
    return {"best": int(lora["number"]), "images": len(images), "mean": mean, "order": order, "references": seen}


def made_by_of_encoded() -> dict[str, Any]:
    """Return what made a LoRA of one checkpoint that another one has encoded and decoded."""
    layout_module, lora_module = (module(f"difflora_core.lora.{name}") for name in ("layout", "lora"))
    layout = layout_module.LoRALayout((layout_module.LoRAModule("mid_block.attentions.0.to_q", 2, 2),), 1)
    networks = SimpleNamespace(
        layout=layout,
        encode=lambda flat: torch.zeros(len(flat), 3, 2),
        decode=lambda latents: torch.zeros(len(latents), layout.numel),
    )
    model = SimpleNamespace(name="new", autoencoder="b", difflora=networks, on_device=lambda: networks)
    lora = lora_module.LoRA(torch.zeros(layout.numel), layout, {"checkpoint": "old", "seed": 3})
    (latent,) = run("DiffLoRAEncode", model=model, lora=lora)
    ((decoded,),) = run("DiffLoRADecode", model=model, latent=latent)
    return dict(decoded.made_by)


def pack_in_two_places() -> bool:
    """Return whether a model pack that is in two folders is that of the first."""
    folders = [Path(base) / "models" / "insightface", Path(base) / "elsewhere"]
    for folder in folders:
        (folder / "models" / "twice").mkdir(parents=True)
        (folder / "models" / "twice" / "detector.onnx").touch()
    folder_paths.add_model_folder_path("insightface", str(folders[1]))
    first = folder_paths.get_folder_paths("insightface")[0]
    found = module("nodes.loaders.load_face_analysis").packs()["twice"]
    return bool(found == Path(first) / "models" / "twice")


def error_without_clip_vision() -> str:
    """Return the error of Load CLIP Vision where there is no model."""
    try:
        run("DiffLoRALoadCLIPVision", clip_name="no CLIP vision model found")
    except FileNotFoundError as error:
        return str(error)
    return "no error"


def clip_vision_choices() -> list[str]:
    """Return the choices of Load CLIP Vision where a model and its configuration are in no folder of their own."""
    folder = Path(base) / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json"):
        (folder / name).touch()
    loader = module("nodes.loaders.load_clip_vision")
    return [*loader.folders(), *loader.files()]


def blended() -> dict[str, str]:
    """Return the autoencoder of blends of latents, or the error, by the versions of the checkpoint that made them."""
    made = {}
    for versions in ("ab", "aa", " a", " ab", "a ", "  "):
        latents = [
            module("nodes.sockets").LoRALatent(torch.ones(1, 3, 2), "x.safetensors", ({},), version.strip())
            for version in versions
        ]
        try:
            (latent,) = run(
                "DiffLoRABlend",
                **dict(zip(("first", "second", "third"), latents, strict=False)),
                amount=0.5,
                latent_scale=1.0,
            )
            made[versions] = latent.autoencoder
        except ValueError as error:
            made[versions] = str(error)
    return made


asyncio.run(load_pack().comfy_entrypoint())
gray = [torch.zeros(1, 8, 12, 1)]
(grid,) = run("DiffLoRAImageGrid", images=gray, labels=["gray"], columns=[0])
found = {
    "gray grid": list(grid.shape),
    "identity": device_of_loaded_identity(),
    "best": best_candidate(),
    "blended": blended(),
    "encoded": made_by_of_encoded(),
    "first pack": pack_in_two_places(),
    "no clip vision": error_without_clip_vision(),
    "clip vision choices": clip_vision_choices(),
    "fingerprints": [module("nodes.sockets").fingerprint(torch.ones(2, 2, dtype=dtype)) for dtype in DTYPES],
}
print(json.dumps(found))  # noqa: T201
