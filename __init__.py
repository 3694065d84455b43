"""DiffLoRA for ComfyUI: reference pictures of a person in, a LoRA for SDXL out.

ComfyUI loads this folder as a package whose name it derives from the path, so everything inside is imported
relatively: the nodes then share one copy of `difflora_core`, and no name of ours can meet a name of the host
(which has a module `nodes` of its own). Without ComfyUI this file imports nothing.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import DiffLoRAExtension

WEB_DIRECTORY = "./web"
"""What ComfyUI serves to the browser: the nodes' help pages in web/docs, no scripts."""


async def comfy_entrypoint() -> "DiffLoRAExtension":
    """Register the model folders and return the nodes; ComfyUI calls this once.

    Raises:
        ImportError: ComfyUI runs on a Python that is too old.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 # ComfyUI runs on 3.9, too, and its managers don't read pyproject.toml
        raise ImportError(
            f"DiffLoRA needs Python 3.11 or newer, and this ComfyUI runs on {sys.version.split()[0]}: make it a new "
            "environment with a newer Python, and install the requirements of ComfyUI and of its nodes there"
        )
    from .nodes import DiffLoRAExtension, register_folders

    register_folders()
    return DiffLoRAExtension()
