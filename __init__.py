"""DiffLoRA for ComfyUI: reference pictures of a person in, a LoRA for SDXL out.

ComfyUI loads this folder as a package whose name it derives from the path, so everything inside is imported
relatively: the nodes then share one copy of `difflora_core`, and no name of ours can meet a name of the host
(which has a module `nodes` of its own). Without ComfyUI this file imports nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import DiffLoRAExtension

WEB_DIRECTORY = "./web"
"""What ComfyUI serves to the browser: the nodes' help pages in web/docs, no scripts."""


async def comfy_entrypoint() -> "DiffLoRAExtension":
    """Register the model folders and return the nodes; ComfyUI calls this once."""
    from .nodes import DiffLoRAExtension, register_folders

    register_folders()
    return DiffLoRAExtension()
