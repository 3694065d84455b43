"""Save LoRA: a file that other programs read, with metadata about how the LoRA was made."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.files import write_tensors
from ..difflora_core.lora.file_formats import Format, storable
from ..difflora_core.lora.lora import LoRA, kohya_metadata
from .file_names import move_new, portable_prefix, write_numbered
from .sockets import CATEGORY, node_schema, show_text

FOLDERS = {"models/loras": "models", "output/loras": "output"}
DEFAULT_NAME = "difflora"


@dataclass
class SavedFiles:
    """What was saved with one prefix into one folder, by all nodes and for all candidates."""

    paths: list[Path]
    """Files that were there when the latest one was saved."""
    gone: int = 0
    """How many others were deleted before that."""

    def deleted(self) -> int:
        """Count those that are gone, whenever that was; saving another one doesn't change it."""
        return self.gone + sum(not path.exists() for path in self.paths)

    def forget_deleted(self) -> None:
        """Count files that are gone as such, before a new one gets the name of one of them."""
        there = [path for path in self.paths if path.exists()]
        self.paths, self.gone = there, self.gone + len(self.paths) - len(there)


_saved: dict[tuple[str, str], SavedFiles] = {}
"""By prefix and folder, as entered."""


class _Choice(str):
    """Type of an output that may be linked to every combo: ComfyUI knows a combo by the list of its choices."""

    __hash__ = str.__hash__

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, list) and str.__ne__(self, other)


FileName = io.Custom("COMBO")
FileName.io_type = _Choice("COMBO")


class SaveLoRA(io.ComfyNode):
    """Write a LoRA into a folder that LoraLoader lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRASave",
            display_name="Save LoRA (with metadata)",
            category=CATEGORY,
            description="Saves a LoRA as a safetensors file with metadata about how it was made.",
            search_aliases=["export LoRA", "write LoRA", "safetensors", "kohya", "peft"],
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Decode LoRA, or any LORA_MODEL."),
                io.String.Input(
                    "filename_prefix",
                    default=DEFAULT_NAME,
                    tooltip="Start of the file name, may contain folders; a number is appended.",
                ),
                io.Combo.Input(
                    "format",
                    options=["kohya", "peft"],
                    default="kohya",
                    tooltip="kohya: for ComfyUI and most programs. peft: for diffusers; ComfyUI does not read it.",
                ),
                io.Combo.Input(
                    "folder",
                    options=list(FOLDERS),
                    default="output/loras",
                    tooltip="Load LoRA lists the files of both folders.",
                ),
            ],
            outputs=[
                FileName.Output(
                    "file",
                    display_name="lora_name",
                    tooltip="Name of the file, for lora_name of Load LoRA, which then waits until it is saved.",
                )
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Check the file name when the workflow is queued; None is a name that comes over a link."""
        try:
            file_prefix(filename_prefix or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: str | None, folder: str, **_: object) -> str:
        """Return a string that changes when a file is gone: ComfyUI would pass on its name without saving again.

        It doesn't know which node saved the file: every node with this prefix and folder saves again. A prefix that
        comes over a link is None here: then it changes with any of the folder's files.
        """
        files = [
            saved for (prefix, where), saved in _saved.items() if where == folder and filename_prefix in (None, prefix)
        ]
        return str(sum(saved.deleted() for saved in files))

    @classmethod
    def execute(cls, lora: Mapping[str, Tensor], filename_prefix: str, format: Format, folder: str) -> io.NodeOutput:
        """Write the file and show its name in the node."""
        prefix = file_prefix(filename_prefix)
        tensors, metadata = prepare(lora, format)
        root = lora_folder(folder)
        saved = _saved.setdefault((filename_prefix, folder), SavedFiles([]))
        saved.forget_deleted()
        path = write_numbered(
            prefix,
            root,
            ".safetensors",
            partial(is_taken, root),
            lambda path: write_tensors(path, tensors, metadata, move_new),
        )
        saved.paths.append(path)
        listed = str(path.relative_to(root))
        description = f"saved {listed} in {folder}"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(listed, ui=ui.PreviewText(description))


def file_prefix(entered: str) -> str:
    """Return the start of the file's path.

    Raises:
        ValueError: It is impossible on some operating system.
    """
    return portable_prefix(entered, DEFAULT_NAME, "_00001_.safetensors")


def is_taken(root: str, path: Path) -> bool:
    """Say whether a file of this name is in the folder, or in another one in which Load LoRA would find it first."""
    return path.exists() or folder_paths.get_full_path("loras", str(path.relative_to(root))) is not None


def prepare(lora: Mapping[str, Tensor], format: Format) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Convert a LoRA to the format's names, and collect the file's metadata.

    Raises:
        ValueError: The LoRA is empty; the format is peft, but the LoRA's layout is unknown; or see `storable`.
    """
    if not lora:
        raise ValueError("the LoRA has no modules: nothing is saved")
    if isinstance(lora, LoRA):
        tensors, metadata = lora.state_dict(format), lora.metadata
    elif format == "kohya":
        tensors, metadata = dict(lora), kohya_metadata(lora)
    else:
        raise ValueError(
            "only a LoRA from Decode LoRA can be saved with peft names, since module names cannot be derived from "
            "the kohya names of other LoRAs; choose the format kohya"
        )
    return storable(tensors, torch.float32), metadata


def lora_folder(folder: str) -> str:
    """Return the folder on disk: the first of models/loras, or output/loras."""
    if FOLDERS[folder] == "models":
        return folder_paths.get_folder_paths("loras")[0]
    return os.path.join(folder_paths.get_output_directory(), "loras")
