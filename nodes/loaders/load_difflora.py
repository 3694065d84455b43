"""Load DiffLoRA: a checkpoint from models/difflora."""

import torch
from comfy_api.latest import io, ui

from ...difflora_core.checkpoint import autoencoder_fingerprint
from ...difflora_core.file_info.project_files import describe_training
from ...difflora_core.model import DiffLoRA
from ..file_names import fingerprint_files
from ..sockets import CATEGORY, DiffLoRAModel, LoadedDiffLoRA, describe_sampling, node_schema, show_text
from .difflora_folder import NO_CHECKPOINT, check_checkpoint_name, checkpoint_path, checkpoints

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoadDiffLoRA(io.ComfyNode):
    """Load a checkpoint and show what it was trained for."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRALoad",
            display_name="Load DiffLoRA",
            category=CATEGORY,
            description="Loads the networks that predict a LoRA from reference images.",
            advanced=["precision"],
            search_aliases=["identity", "portrait", "likeness", "InstantID", "hypernetwork"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoints() or [NO_CHECKPOINT],
                    tooltip="A DiffLoRA checkpoint in models/difflora, for one base model and the encoders that the "
                    "node shows.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="fp32",
                    tooltip="Data type of the networks. bf16 and fp16 halve the memory and change the LoRA slightly.",
                ),
            ],
            outputs=[
                DiffLoRAModel.Output(
                    "model", display_name="DIFFLORA_MODEL", tooltip="The networks, for the other DiffLoRA nodes."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Check that the file is there when the workflow is queued; None is a name that comes over a link."""
        try:
            if checkpoint is not None:
                check_checkpoint_name(checkpoint)
        except FileNotFoundError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, precision: str) -> str:
        """Return a string that changes with the file and the precision."""
        return f"{fingerprint_files(checkpoint_path(checkpoint))}:{precision}"

    @classmethod
    def execute(cls, checkpoint: str, precision: str) -> io.NodeOutput:
        """Load the file and register the networks with ComfyUI's memory management."""
        path = checkpoint_path(checkpoint)
        difflora = DiffLoRA.load(path, dtype=DTYPES[precision])
        description = describe(difflora)
        show_text(description, cls.hidden.unique_id)
        loaded = LoadedDiffLoRA.wrap(difflora, checkpoint, autoencoder_fingerprint(path))
        return io.NodeOutput(loaded, ui=ui.PreviewText(description))


def describe(difflora: DiffLoRA) -> str:
    """Describe the LoRAs of the checkpoint, its training, its encoders and its recommended settings, one line each."""
    layout, encoders = difflora.layout, difflora.config.encoders
    lines = [
        f"LoRA: {len(layout.modules)} modules, rank {layout.rank}, {layout.numel:,} parameters",
        f"face encoder: {encoders.face}",
        f"image encoder: {encoders.image}",
        f"recommended: {describe_sampling(difflora.config.sampling)}",
    ]
    return "\n".join([*lines, *describe_training(difflora.config)])
