"""Nodes for the tests alone: onto native sockets what no core node puts there."""

import gc
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io, ui

PICTURES = {
    "alpha": lambda image: torch.cat([image, torch.rand(*image.shape[:3], 1)], dim=-1),
    "grey": lambda image: image.mean(-1, keepdim=True),
    "two channels": lambda image: image[..., :2],
    "no picture": lambda image: image[:0],
    "one pixel": lambda image: image[:, :1, :1],
    "NaN": lambda image: torch.cat([image, torch.full_like(image, torch.nan)]),
    "8k": lambda image: torch.nn.functional.pad(image, (0, 0, 0, 7680 - image.shape[2], 0, 4320 - image.shape[1])),
}


class ReadLoRA(io.ComfyNode):
    """Read a file of models/loras as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRATestReadLoRA",
            category="DiffLoRA/tests",
            inputs=[io.String.Input("lora_name")],
            outputs=[io.LoraModel.Output()],
        )

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        """Read the tensors."""
        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        return io.NodeOutput(comfy.utils.load_torch_file(path, safe_load=True))


class OddPicture(io.ComfyNode):
    """A picture as it should not be."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRATestOddPicture",
            category="DiffLoRA/tests",
            inputs=[io.Image.Input("image"), io.Combo.Input("kind", options=list(PICTURES))],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, kind: str) -> io.NodeOutput:
        """Change it."""
        return io.NodeOutput(PICTURES[kind](image))


class OtherVision(io.ComfyNode):
    """A CLIP_VISION_OUTPUT as another encoder gives it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRATestOtherVision",
            category="DiffLoRA/tests",
            inputs=[io.Int.Input("width")],
            outputs=[io.ClipVisionOutput.Output()],
        )

    @classmethod
    def execute(cls, width: int) -> io.NodeOutput:
        """Only what the pack reads."""
        output: dict[str, Any] = {"image_embeds": torch.ones(1, width)}
        return io.NodeOutput(output)


class Memory(io.ComfyNode):
    """What the pack holds in memory; asked anew every time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRATestMemory",
            category="DiffLoRA/tests",
            inputs=[io.Int.Input("ask")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, ask: int) -> io.NodeOutput:
        """Count the pack's networks: those on the device, and those that anything still refers to."""
        gc.collect()
        networks = [thing for thing in gc.get_objects() if type(thing).__name__ == "DiffLoRA"]
        loaded = [
            entry.model.model for entry in comfy.model_management.current_loaded_models if entry.model is not None
        ]
        on_device = [network for network in networks if any(network in model.modules() for model in loaded)]
        return io.NodeOutput(ui=ui.PreviewText(f"{len(on_device)} loaded, {len(networks)} alive"))


class TestExtension(ComfyExtension):
    """The nodes above."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes for ComfyUI to register."""
        return [ReadLoRA, OddPicture, OtherVision, Memory]


async def comfy_entrypoint() -> TestExtension:
    """ComfyUI calls this once."""
    return TestExtension()
