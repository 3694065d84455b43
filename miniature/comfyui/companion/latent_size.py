"""A warning where the miniature samples a latent of a size that it was not trained on.

Core's Empty Latent Image is of 512 pixels, four times the miniature's, which then draws several faces and parts of
faces: a newcomer would blame the LoRA. Real SDXL is not concerned, since only the miniature's checkpoints match here.
"""

import logging
from typing import Any

import comfy.model_base
from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)

IMAGE_SIZE, LATENT_SCALE = 128, 8
"""Side in pixels of the images that the base model was trained on, `sample_size` in its header, and pixels per side of
a latent's pixel."""
MAX_RATIO = 2.0
"""Factor between the areas of both above which it warns: two people side by side are still drawn."""


class TinySDXL(comfy.model_base.SDXL):
    """SDXL's model, which looks at the size of what it samples."""

    warned: tuple[str, str] | None = None
    """Prompt and node of the last warning: of each run of a node, one is enough."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Compute a prompt's conditions, as the host asks for before it samples; `noise` is as large as the latent."""
        if "prompt_type" in kwargs:  # else it trains
            height, width = (LATENT_SCALE * side for side in kwargs["noise"].shape[-2:])
            if not 1 / MAX_RATIO <= height * width / IMAGE_SIZE**2 <= MAX_RATIO:
                # The page shows about 75 characters, and the rest when the node is made larger
                self._warn(
                    f"Latent is {width} × {height}, expected {IMAGE_SIZE} × {IMAGE_SIZE}: set Empty Latent Image to "
                    f"{IMAGE_SIZE}. The miniature was trained on {IMAGE_SIZE} × {IMAGE_SIZE} pixels only, and repeats "
                    "parts of faces in larger images. SDXL itself takes 1024 × 1024."
                )
        return super().extra_conds(**kwargs)

    def _warn(self, text: str) -> None:
        """Warn in the log and, while a node runs, in that node."""
        context = get_executing_context()
        run = None if context is None else (context.prompt_id, context.node_id)
        if run is not None and run == self.warned:
            return
        self.warned = run
        logger.warning(text)
        if context is not None:
            from server import PromptServer  # only a running server has it

            PromptServer.instance.send_progress_text(text, context.node_id)
