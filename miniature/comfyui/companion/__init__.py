"""A custom-node folder with which an unmodified ComfyUI reads the miniature's tiny SDXL.

For tests and the demo only; real SDXL does not need it. It adds no node and one model configuration, which matches only
checkpoints with the miniature's own key.

- `model`: that configuration.
- `latent_size`: a warning where a latent is not of the miniature's size.
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
