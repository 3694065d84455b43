"""Load LoRA File: a file from models/loras as a LORA_MODEL. ComfyUI's own loaders apply a file at once."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ...difflora_core.file_info.describe_file import describe_file
from ...difflora_core.lora.kohya_names import read_with_kohya_names
from ...difflora_core.lora.peft_config import CONFIG_FILE
from ..file_names import fingerprint_files
from ..sockets import CATEGORY, node_schema, show_text

ENDINGS = (".safetensors", ".sft")
NO_LORA = "no LoRA found"


class LoadLoRAFile(io.ComfyNode):
    """Read a LoRA that any program wrote, and show what it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        files = [name for name in folder_paths.get_filename_list("loras") if name.endswith(ENDINGS)]
        return node_schema(
            node_id="DiffLoRALoadLoRA",
            display_name="Load LoRA File",
            category=CATEGORY,
            description="Loads a LoRA as a LORA_MODEL, to apply it completely or not at all, to refine or encode it.",
            search_aliases=["LoRA loader", "LORA_MODEL", "import LoRA", "PEFT", "kohya"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=files or [NO_LORA],
                    tooltip="A safetensors file in models/loras or output/loras, also with PEFT's names.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(
                    "lora", display_name="LORA_MODEL", tooltip="For Apply LoRA, Refine LoRA, Encode LoRA."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None) -> str:
        """Return a string that changes with the files on disk: the LoRA, and PEFT's configuration beside it.

        None is a name that comes over a link, of a file that Save LoRA has just written.
        """
        if lora_name is None:
            return ""
        path = lora_path(lora_name)
        return fingerprint_files(path, path.with_name(CONFIG_FILE))

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        """Read the file and show its kind, names, modules, ranks and origin."""
        path = lora_path(lora_name)
        lora = read_with_kohya_names(path)
        description = "\n".join(describe_file(path)).removeprefix(f"{path}: ")
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(lora, ui=ui.PreviewText(description))


def lora_path(name: str) -> Path:
    """Return the path of one of the choices.

    Raises:
        FileNotFoundError: There is none.
    """
    if name == NO_LORA:
        raise FileNotFoundError("there is no LoRA in models/loras: put a safetensors file there, then press R")
    return Path(folder_paths.get_full_path_or_raise("loras", name))
