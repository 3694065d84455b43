"""A custom-node folder of its own: teaches an unmodified ComfyUI the miniature's tiny SDXL and tiny CLIP vision model.

For tests and the demo only; nobody needs it for real SDXL. It adds one model configuration, which claims nothing but
checkpoints that carry the miniature's own key, and one loader node.
"""

from comfy_api.latest import ComfyExtension, io

from .clip_vision import LoadMiniatureClipVision
from .model import register


class MiniatureExtension(ComfyExtension):
    """The companion's single node."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes for ComfyUI to register."""
        return [LoadMiniatureClipVision]


async def comfy_entrypoint() -> MiniatureExtension:
    """Register the tiny SDXL and return the nodes; ComfyUI calls this once."""
    register()
    return MiniatureExtension()
