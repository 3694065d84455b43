"""A node for the tests alone: a LoRA file onto the native LORA_MODEL socket, where no core node can put it."""

import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io


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


class TestExtension(ComfyExtension):
    """The single node."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes for ComfyUI to register."""
        return [ReadLoRA]


async def comfy_entrypoint() -> TestExtension:
    """ComfyUI calls this once."""
    return TestExtension()
