"""Save LoRA: a file that other programs read, with metadata that says what made it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.files import write_tensors
from ..difflora_core.lora.file_formats import Format, lora_state_dict, read_lora
from .sockets import CATEGORY, MadeLoRA, show_text

FOLDERS = {"models/loras": "models", "output/loras": "output"}


class SaveLoRA(io.ComfyNode):
    """Write a LoRA where LoraLoader lists it at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRASave",
            display_name="Save LoRA (with metadata)",
            category=CATEGORY,
            description="Saves a LoRA as a safetensors file whose metadata says how it was made.",
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Decode LoRA, or any LORA_MODEL."),
                io.String.Input(
                    "filename_prefix",
                    default="difflora",
                    tooltip="Start of the file's name, with folders if you like; a number follows.",
                ),
                io.Combo.Input(
                    "format",
                    options=["kohya", "peft"],
                    default="kohya",
                    tooltip="kohya: ComfyUI and most programs. peft: diffusers; ComfyUI does not read it.",
                ),
                io.Combo.Input(
                    "folder",
                    options=list(FOLDERS),
                    default="output/loras",
                    tooltip="Load LoRA lists files of both folders.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, lora: Mapping[str, Tensor], filename_prefix: str, format: Format, folder: str) -> io.NodeOutput:
        """Write the file and show its name in the node."""
        tensors, metadata = prepare(lora, format)
        root = lora_folder(folder)
        directory, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        os.makedirs(directory, exist_ok=True)
        while (path := Path(directory) / f"{name}_{counter:05}_.safetensors").exists():
            counter += 1
        write_tensors(path, tensors, metadata)
        description = f"saved {path.relative_to(root)} in {folder}"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(ui=ui.PreviewText(description))


def prepare(lora: Mapping[str, Tensor], format: Format) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under the format's names, and the file's metadata.

    Raises:
        ValueError: PEFT names are asked for, but nobody knows this LoRA's modules.
    """
    tensors = dict(lora)
    ranks = sorted({tensor.shape[0] for name, tensor in lora.items() if name.endswith("lora_down.weight")})
    metadata = {"format": "pt", "ss_network_module": "networks.lora"}
    if len(ranks) == 1:
        metadata |= {"ss_network_dim": str(ranks[0]), "ss_network_alpha": str(float(ranks[0]))}
    if isinstance(lora, MadeLoRA):
        metadata["difflora"] = json.dumps(dict(lora.made_by))
    if format == "peft":
        if not isinstance(lora, MadeLoRA):
            raise ValueError(
                "only a LoRA from Decode LoRA can be saved with peft names: kohya names of other LoRAs do not say "
                "where one module's name ends and the next begins; save it in the format kohya"
            )
        tensors = lora_state_dict(read_lora(lora, lora.layout), lora.layout, format="peft")
    return {name: tensor.detach().cpu().to(torch.float32).contiguous() for name, tensor in tensors.items()}, metadata


def lora_folder(folder: str) -> str:
    """The folder on disk: the first of models/loras, or output/loras."""
    if FOLDERS[folder] == "models":
        return folder_paths.get_folder_paths("loras")[0]
    return os.path.join(folder_paths.get_output_directory(), "loras")
