"""A node that writes what a MODEL's patches make of its weights, by the host's own arithmetic."""

import os
from typing import Any

import comfy.lora
import folder_paths
import torch
from comfy_api.latest import io
from safetensors.torch import save_file


class WeightChanges(io.ComfyNode):
    """Write the patched weights, and the changes that the patches make to weights of zeros."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestWeightChanges",
            category="DiffLoRA/tests",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        """Patch copies of the weights in float32."""
        weights, written = model.model.state_dict(), {}
        for key, patches in model.patches.items():
            for title, weight in (("patched", weights[key].float()), ("change", torch.zeros(weights[key].shape))):
                written[f"{title} {key}"] = comfy.lora.calculate_weight(patches, weight.clone(), key).contiguous()
        save_file(written, os.path.join(folder_paths.get_output_directory(), f"{name}.safetensors"))
        return io.NodeOutput()
