"""A custom-node folder of its own: teaches an unmodified ComfyUI the miniature's tiny SDXL.

For tests and the demo only; nobody needs it for real SDXL. It adds one model configuration, which claims nothing but
checkpoints that carry the miniature's own key, and no node.
"""

from comfy_api.latest import ComfyExtension, io

from .model import register


class MiniatureExtension(ComfyExtension):
    """What ComfyUI expects of a custom-node folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return no node classes."""
        return []


async def comfy_entrypoint() -> MiniatureExtension:
    """Register the tiny SDXL; ComfyUI calls this once."""
    register()
    return MiniatureExtension()
