"""Saving the LoRAs of a workflow with Save LoRA, and reading the files."""

from pathlib import Path

import torch

from difflora_core.lora.file_formats import read_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import DIFFLORA_CHECKPOINT
from training.comfyui_client import Client


def saved(client: Client, graph: ApiPrompt, base: Path, lora: str, name: str, **widgets: str) -> list[Path]:
    """Save the LORA_MODELs of the node titled `lora` and return the files, in order."""
    graph = graph.copy().add("Ours", "DiffLoRASave", lora=graph.output(lora), filename_prefix=name)
    graph.set("Ours", **{"format": "kohya", "folder": "output/loras", **widgets})
    return new_files(client, graph, base, name)


def new_files(client: Client, graph: ApiPrompt, base: Path, name: str) -> list[Path]:
    """Run the Save LoRA titled "Ours" and return the files that it wrote with the prefix `name`, in order.

    Tests share the host's folder: files that another test has saved under this name aren't returned.
    """
    there = set(files_named(base, name))
    client.run(graph.only("Ours").prompt)
    return [path for path in files_named(base, name) if path not in there]


def files_named(base: Path, name: str) -> list[Path]:
    """The files that Save LoRA wrote with the prefix `name`, in order; not those of a longer prefix, as name_again."""
    return sorted((base / "output" / "loras").glob(f"{name}_[0-9]*_.safetensors"))


def flat(path: Path) -> torch.Tensor:
    """Read a file as a flat LoRA (numel,) of the shipped checkpoint's layout."""
    return read_lora(path, DiffLoRA.load(DIFFLORA_CHECKPOINT).layout)
