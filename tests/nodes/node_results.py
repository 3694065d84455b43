"""Run by a test in its own process: what nodes return for odd inputs and settings of the host, as JSON.

python node_results.py HOST BASE
"""

import asyncio
import errno
import json
import os
from itertools import pairwise
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
    """An image's embedding is its mean color, of which blue is negative; black images have no face.

    The reds of all images that were encoded are noted.
    """

    def __init__(self, analysis: object) -> None:
        self.analysis = analysis

    def find(self, image: np.ndarray) -> Any:
        """Encode an image."""
        color = torch.from_numpy(image.mean((0, 1)).astype(np.float32))
        color[0] -= color[2]
        seen.append(float(color[0]))
        if not color.any():
            raise module("difflora_core.encoders.face_encoder").NoFaceError
        return module("difflora_core.encoders.face_encoder").EncodedFace(color, torch.zeros(1), torch.zeros(1, 5))


def run(name: str, **arguments: Any) -> tuple[Any, ...]:
    """Run a node as the host does and return its outputs."""
    node = next(node for node in module("nodes").NODES if node.define_schema().node_id == name)
    node.hidden = SimpleNamespace(unique_id=None)
    return tuple(node.execute(**arguments).result or ())


def image(red: float, green: float, count: int = 1, blue: float = 0.0) -> torch.Tensor:
    """Return a batch of images of one color."""
    return torch.tensor([red, green, blue]).expand(count, 4, 4, 3)


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


def best_candidate(*batches: torch.Tensor) -> dict[str, Any]:
    """Rank candidates by their images, for a person who is red."""
    module("nodes.comparing.similarity_and_pick_best").FaceEncoder = Faces
    seen.clear()
    loras = [{"number": torch.tensor(number)} for number in range(len(batches))]
    try:
        lora, images, mean, text = run(
            "DiffLoRAPickBest",
            loras=loras,
            images=list(batches),
            references=[image(1.0, 0.0), image(0.0, 0.0)],
            face_analysis=[object()],
        )
    except ValueError as error:
        return {"error": str(error)}
    best = {"best": int(lora["number"]), "images": len(images), "mean": mean, "lines": text.splitlines()}
    return best | {"references": seen.count(255.0)}


def made_by_of_encoded() -> dict[str, Any]:
    """Return what made a LoRA of one checkpoint that another one has encoded and decoded."""
    layout_module, lora_module = (module(f"difflora_core.lora.{name}") for name in ("layout", "lora"))
    layout = layout_module.LoRALayout((layout_module.LoRAModule("mid_block.attentions.0.to_q", 2, 2),), 1)
    networks = SimpleNamespace(
        layout=layout,
        encode=lambda flat: torch.zeros(len(flat), 3, 2),
        decode=lambda latents: torch.zeros(len(latents), layout.numel),
    )
    networks.lae = SimpleNamespace(normalize=lambda flat: flat, decode=networks.decode)
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


def two_people(second: str) -> tuple[float, Any]:
    """Return the blend of two latents of which the other one is at an input of this name, and its amount."""
    first, other = (
        module("nodes.sockets").LoRALatent(torch.full((1, 3, 2), value), "x.safetensors", ({},), "a")
        for value in (0.0, 1.0)
    )
    (latent,) = run("DiffLoRABlend", first=first, **{second: other}, amount=0.75, latent_scale=1.0)
    return float(latent.latents.mean()), latent.made_by[0].get("amount")


def changes_of_clip_vision() -> list[bool]:
    """Return whether Load CLIP Vision notices changes of the files in a folder, one file after another."""
    folder = Path(base) / "models" / "clip_vision" / "tiny"
    folder.mkdir(parents=True)
    files = [folder / name for name in ("model.safetensors", "config.json", "preprocessor_config.json")]
    for file in files[:2]:
        file.touch()
    load = module("nodes.loaders.load_clip_vision").LoadCLIPVision
    found = [load.fingerprint_inputs("tiny")]
    for file in files:
        file.write_text("changed", encoding="utf-8")
        found.append(load.fingerprint_inputs("tiny"))
    return [after != before for before, after in pairwise(found)]


def names_taken_meanwhile(place: str, function: str, node: str, **values: Any) -> list[str]:
    """Save twice, with and without hard links, while another process takes the number; return names and contents."""
    saver, made = module(place), []
    write, link = getattr(saver, function), os.link

    def write_later(path: Path, *arguments: Any) -> None:
        if not made:
            path.write_text("another process")
        made.append(path)
        write(path, *arguments)

    setattr(saver, function, write_later)
    try:
        run(node, filename_prefix="race", **values)
        made.clear()
        os.link = no_links
        run(node, filename_prefix="race", **values)
    finally:
        os.link = link
        setattr(saver, function, write)
    files = sorted(made[0].parent.glob("*race*"))
    return [f"{file.name[:10]} {'other' if file.read_bytes() == b'another process' else 'own'}" for file in files]


def changes_of_saved_files() -> dict[str, list[bool]]:
    """Tell whether Save LoRA is run again, its prefix on the widget and over a link, as files come and go.

    Two nodes, or two candidates, save with one prefix.
    """
    node, folder = module("nodes.save_lora").SaveLoRA, Path(folder_paths.get_output_directory()) / "loras"
    before, changes = ["0", "0"], {}
    for step in ("1 saved", "2 saved", "1 deleted", "2 deleted", "1 saved again", "2 saved again", "1 deleted again"):
        if "deleted" in step:
            (folder / f"gone_0000{step[0]}_.safetensors").unlink()
        else:
            run("DiffLoRASave", lora={"a.alpha": 1.0}, filename_prefix="gone", format="kohya", folder="output/loras")
        now = [node.fingerprint_inputs(prefix, "output/loras") for prefix in ("gone", None)]
        changes[step] = [a != b for a, b in zip(before, now, strict=True)]
        before = now
    return changes


def reduced_grid() -> list[int]:
    """Return the shape of a grid of four images of 20 × 20 pixels where a quarter of these pixels is allowed."""
    previews = module("nodes.preview_images")
    limit, previews.MAX_GRID_PIXELS = previews.MAX_GRID_PIXELS, 400
    try:
        (grid,) = run("DiffLoRAImageGrid", images=[torch.zeros(4, 20, 20, 3)], labels=["gray"], columns=[2])
    finally:
        previews.MAX_GRID_PIXELS = limit
    return list(grid.shape)


def shown_lines() -> list[str]:
    """Return what the page gets to show of a text of two lines, with signs of HTML and Markdown."""
    sockets, shown = module("nodes.sockets"), []
    server = sockets.PromptServer
    page = SimpleNamespace(send_progress_text=lambda *sent: shown.extend(sent), client_id="page 1")
    sockets.PromptServer = SimpleNamespace(instance=page)
    try:
        sockets.show_text("_one_\n<b>", "7")
    finally:
        sockets.PromptServer = server
    return shown


def no_links(*_: Any) -> None:
    """Fail as a file system without hard links does."""
    raise PermissionError(errno.EPERM, "no links")


asyncio.run(load_pack().comfy_entrypoint())
gray = [torch.zeros(1, 8, 12, 1)]
(grid,) = run("DiffLoRAImageGrid", images=gray, labels=["gray"], columns=[0])
found = {
    "gray grid": list(grid.shape),
    "reduced grid": reduced_grid(),
    "saved files": changes_of_saved_files(),
    "shown": shown_lines(),
    "identity": device_of_loaded_identity(),
    "best": best_candidate(image(0.0, 1.0), image(0.8, 0.2, 2), image(0.5, 0.5)),
    "no face": best_candidate(
        nobody := image(0.0, 0.0),
        other := image(0.0, 1.0, blue=0.1),
        torch.cat([other, nobody]),
        torch.cat([image(1.0, 0.0), nobody]),
    ),
    "no face at all": best_candidate(nobody, nobody),
    "blended": blended(),
    "two people": {second: two_people(second) for second in ("second", "third", "fourth")},
    "race of LoRAs": names_taken_meanwhile(
        "nodes.save_lora", "write_tensors", "DiffLoRASave", lora={"a.alpha": 1.0}, format="kohya", folder="models/loras"
    ),
    "race of identities": names_taken_meanwhile(
        "nodes.save_and_load_identity",
        "save_latents",
        "DiffLoRASaveIdentity",
        latent=module("nodes.sockets").LoRALatent(torch.ones(1, 3, 2), "x.safetensors", ({},), "a"),
    ),
    "encoded": made_by_of_encoded(),
    "strengths": [module("nodes.comparing.apply_strengths").parse_strengths(text) for text in ("0,0.5,1", "0, -1\n2")],
    "first pack": pack_in_two_places(),
    "no clip vision": error_without_clip_vision(),
    "clip vision choices": clip_vision_choices(),
    "image encoder": changes_of_clip_vision(),
    "hashes": [module("nodes.sockets").hash_tensors(torch.ones(2, 2, dtype=dtype)) for dtype in DTYPES],
}
print(json.dumps(found))  # noqa: T201
