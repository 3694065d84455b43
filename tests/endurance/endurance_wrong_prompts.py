"""Prompts of the endurance run that are wrong, and the error that each has to end with."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.world.drawing import draw_empty
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client

from .endurance_prompts import Job, Prompts, Request

NODES_FOR_TESTS = Path(__file__).parents[1] / "host" / "odd_nodes"
"""Nodes that put onto the native sockets what no core node gives, such as a NaN."""
WRONG = {
    "no face": r"DiffLoRAEncodeFace: .*no face",
    "missing image": r"Invalid image file",
    "missing LoRA file": r"Load LoRA|LoraLoader: .*not in",
    "truncated checkpoint": r"(?s)DiffLoRALoad: .*truncated",
    "other base model": r"(?s)DiffLoRAApply: .*the model lacks 1 of the LoRA's",
    "NaN in LoRA": r"(?s)DiffLoRAApply: .*NaN",
    "NaN in image": r"(?s)DiffLoRAEncodeFace: .*NaN",
    "NaN as strength": r"DiffLoRAApply: `strength` is nan",
    "loss not finite": r"DiffLoRARefine: the loss is not finite",
    "other face model": r"DiffLoRAMixFeatures: .*'measuring'.*'miniature'",
    "impossible name": r"contains ':'",
}
"""Regular expression of the error by kind."""


def install_nodes(base: Path) -> None:
    """Put the tests' own nodes into the base directory; the server must not run yet."""
    shutil.copytree(NODES_FOR_TESTS, base / "custom_nodes" / NODES_FOR_TESTS.name)


class WrongPrompts:
    """Makers of prompts that end with an error."""

    def __init__(self, client: Client, base: Path, prompts: Prompts) -> None:
        """Write the damaged files, with a LoRA that the server makes.

        Args:
            client: Of the server.
            base: The server's base directory.
            prompts: Those that succeed; they are made wrong in one place.
        """
        self._prompts = prompts
        nobody = draw_empty(reference_scene(np.random.default_rng(2)))
        client.upload(Image.fromarray(nobody), "nobody.png")
        folder = base / "models" / "difflora"
        folder.mkdir(exist_ok=True)
        (folder / "truncated.safetensors").write_bytes(DIFFLORA_CHECKPOINT.read_bytes()[:-1000])
        graph = prompts.varied("one_picture", Random(0)).set("Save LoRA", filename_prefix="whole")
        client.run(graph.only("Save LoRA").prompt)
        (path,) = (base / "output" / "loras").glob("whole_*.safetensors")
        write_damaged_loras(load_file(path), base / "models" / "loras")

    def wrong(self, rng: Random, _: int) -> Job:
        """Make one of them."""
        kind = rng.choice(list(WRONG))
        name = "save_and_load" if kind in ("missing LoRA file", "impossible name") else "portrait"
        graph = self._prompts.varied(name, rng)
        end = "Save LoRA" if kind == "impossible name" else "Save Image"
        changed = self._spoil(kind, graph, rng).only(end)
        return (Request(f"wrong: {kind}", changed.prompt, error=WRONG[kind]),)

    def _spoil(self, kind: str, graph: ApiPrompt, rng: Random) -> ApiPrompt:
        match kind:
            case "no face":
                return graph.set("Your picture 2", image="nobody.png")
            case "missing image":
                return graph.set("Your picture 2", image="missing.png")
            case "missing LoRA file":
                return graph.set("Load LoRA (your strength)", lora_name="missing.safetensors")
            case "truncated checkpoint":
                return graph.set("Load DiffLoRA", checkpoint="truncated.safetensors")
            case "NaN as strength":
                return graph.set("Your strength", strength="nan")
            case "NaN in image":
                graph.add("Odd", "DiffLoRATestOddImage", image=graph.output("Your picture 1"), kind="NaN")
                return graph.set("Encode Face", image=graph.output("Odd"))
            case "other face model":
                return graph.set("Load Face Analysis", model_pack="measuring")
            case "impossible name":
                return graph.set("Save LoRA", filename_prefix="a:b")
            case "loss not finite":
                graph = self._prompts.with_refine(rng)
                graph.add("File", "DiffLoRALoadLoRA", lora_name=f"{kind}.safetensors")
                return graph.set("Refine", lora=graph.output("File"))
        graph.add("File", "DiffLoRALoadLoRA", lora_name=f"{kind}.safetensors")
        return graph.set("Your strength", lora=graph.output("File"))


def write_damaged_loras(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write LoRAs that do not fit the base model, hold NaN, or let the U-Net overflow, named by their kind."""
    name = next(name for name in tensors if "down_blocks_1" in name).split(".")[0]
    deeper = name.replace("transformer_blocks_0", "transformer_blocks_9")
    damaged = {
        "other base model": {key.replace(name, deeper): value for key, value in tensors.items()},
        "NaN in LoRA": {**tensors, f"{name}.lora_up.weight": tensors[f"{name}.lora_up.weight"] * torch.nan},
        "loss not finite": {key: value * 1e25 for key, value in tensors.items()},
    }
    for kind, changed in damaged.items():
        save_file(changed, folder / f"{kind}.safetensors")
