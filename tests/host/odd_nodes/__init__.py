"""Nodes for tests only: values on native sockets that no core node gives."""

import gc
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy_api.latest import ComfyExtension, io, ui

from .trim_memory import TrimMemory
from .weight_changes import WeightChanges

IMAGES = {
    "alpha": lambda image: torch.cat([image, torch.rand(*image.shape[:3], 1)], dim=-1),
    "grey": lambda image: image.mean(-1, keepdim=True),
    "two channels": lambda image: image[..., :2],
    "no image": lambda image: image[:0],
    "one pixel": lambda image: image[:, :1, :1],
    "NaN": lambda image: torch.cat([image, torch.full_like(image, torch.nan)]),
    "huge": lambda image: torch.nn.functional.pad(image, (0, 0, 0, 5000 - image.shape[2], 0, 5000 - image.shape[1])),
}


class OddImage(io.ComfyNode):
    """An unusual image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestOddImage",
            category="DiffLoRA/tests",
            inputs=[io.Image.Input("image"), io.Combo.Input("kind", options=list(IMAGES))],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, kind: str) -> io.NodeOutput:
        """Change it."""
        return io.NodeOutput(IMAGES[kind](image))


class OtherVision(io.ComfyNode):
    """A CLIP_VISION_OUTPUT of another encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestOtherVision",
            category="DiffLoRA/tests",
            inputs=[io.Int.Input("width")],
            outputs=[io.ClipVisionOutput.Output()],
        )

    @classmethod
    def execute(cls, width: int) -> io.NodeOutput:
        """Return what the pack reads."""
        output: dict[str, Any] = {"image_embeds": torch.ones(1, width)}
        return io.NodeOutput(output)


class Twice(io.ComfyNode):
    """A list that holds one value twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestTwice",
            category="DiffLoRA/tests",
            inputs=[io.AnyType.Input("value")],
            outputs=[io.AnyType.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, value: object) -> io.NodeOutput:
        """Return the list."""
        return io.NodeOutput([value, value])


def move_weights(model: Any) -> Any:
    """Replace the weights outside of inference mode, as a host does that moves them to a GPU and back."""
    with torch.inference_mode(False):
        for weight in model.model.parameters():
            weight.data = weight.data.clone()
    return model


def skip_weight_wrappers(model: Any) -> Any:
    """Load modules of at most 16 KiB as a host with dynamic VRAM does: new weights, and no weight wrappers."""

    def on_load(patcher: Any, *_: object) -> None:
        for module in patcher.model.modules():
            if hasattr(module, "weight_function") and comfy.model_management.module_size(module) <= 16 * 1024:
                module.weight_function, module.bias_function = [], []
                for name, weight in list(module.named_parameters(recurse=False)):
                    setattr(module, name, torch.nn.Parameter(weight.clone(), requires_grad=False))

    patched = model.clone()
    patched.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, on_load)
    return patched


LIKE_ON_GPU = {"move weights": move_weights, "skip weight wrappers": skip_weight_wrappers}


class LikeOnGPU(io.ComfyNode):
    """A MODEL in a state that the host's CPU mode does not lead to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestLikeOnGPU",
            category="DiffLoRA/tests",
            inputs=[io.Model.Input("model"), io.Combo.Input("kind", options=list(LIKE_ON_GPU))],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, kind: str) -> io.NodeOutput:
        """Change it."""
        return io.NodeOutput(LIKE_ON_GPU[kind](model))


class Memory(io.ComfyNode):
    """Count the pack's networks in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestMemory",
            category="DiffLoRA/tests",
            inputs=[io.Int.Input("call", tooltip="Another number each time, so that no result is cached.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, call: int) -> io.NodeOutput:
        """Count those on the device, and all that are still referenced."""
        gc.collect()
        networks = [found for found in gc.get_objects() if type(found).__name__ == "DiffLoRA"]
        loaded = [
            entry.model.model for entry in comfy.model_management.current_loaded_models if entry.model is not None
        ]
        on_device = [network for network in networks if any(network in model.modules() for model in loaded)]
        return io.NodeOutput(ui=ui.PreviewText(f"{len(on_device)} loaded, {len(networks)} alive"))


class TestExtension(ComfyExtension):
    """The nodes above."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes for ComfyUI to register."""
        return [OddImage, OtherVision, Twice, LikeOnGPU, Memory, TrimMemory, WeightChanges]


async def comfy_entrypoint() -> TestExtension:
    """ComfyUI calls this once."""
    return TestExtension()
