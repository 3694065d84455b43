"""Load DiffLoRA: a checkpoint from models/difflora."""

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..difflora_core.model import DiffLoRA
from .sockets import CATEGORY, DiffLoRAModel, LoadedDiffLoRA, show_text

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoadDiffLoRA(io.ComfyNode):
    """Read a checkpoint and say what it was trained for."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        files = [name for name in folder_paths.get_filename_list("difflora") if name.endswith(".safetensors")]
        return io.Schema(
            node_id="DiffLoRALoad",
            display_name="Load DiffLoRA",
            category=CATEGORY,
            description="Loads the networks that turn reference pictures into a LoRA, from models/difflora.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=files,
                    tooltip="A DiffLoRA checkpoint in models/difflora. It fits one base model and one face encoder; "
                    "the node shows which.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="fp32",
                    tooltip="What the networks compute in. bf16 and fp16 take half the memory and change the LoRA a "
                    "little.",
                ),
            ],
            outputs=[
                DiffLoRAModel.Output("model", display_name="DIFFLORA_MODEL", tooltip="For the other DiffLoRA nodes.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, precision: str) -> str:
        """Change when the file does: ComfyUI would not notice another file under the same name."""
        path = Path(folder_paths.get_full_path_or_raise("difflora", checkpoint))
        return f"{path}:{path.stat().st_mtime_ns}:{path.stat().st_size}:{precision}"

    @classmethod
    def execute(cls, checkpoint: str, precision: str) -> io.NodeOutput:
        """Load the file and hand the networks to ComfyUI's memory management."""
        path = folder_paths.get_full_path_or_raise("difflora", checkpoint)
        difflora = DiffLoRA.load(path, dtype=DTYPES[precision])
        description = describe(difflora)
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(LoadedDiffLoRA.wrap(difflora, checkpoint), ui=ui.PreviewText(description))


def describe(difflora: DiffLoRA) -> str:
    """What the checkpoint makes, what it needs, and the settings its makers recommend, a line each."""
    layout, encoders, sampling = difflora.layout, difflora.config.encoders, difflora.config.sampling
    return (
        f"LoRA: {len(layout.modules)} modules, rank {layout.rank}, {layout.numel:,} numbers\n"
        f"face encoder: {encoders.face}\n"
        f"image encoder: {encoders.image}\n"
        f"recommended: steps {sampling.steps}, guidance {sampling.guidance_scale:g},\n"
        f"    scheduler {sampling.scheduler}, samples {sampling.samples}, latent scale {sampling.latent_scale:g}"
    )
