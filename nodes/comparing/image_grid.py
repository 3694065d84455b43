"""Image Grid with Labels: images side by side in one image."""

from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ...difflora_core.images import image_batch
from ..input_checks import takes_lists
from ..preview_images import labeled_grid
from ..sockets import CATEGORY, node_schema, to_intermediate

MAX_SIDE = 1024
"""Longest side in pixels of each image in the grid."""
COLUMNS = 4
"""Images in a row where the user leaves it open."""


class ImageGrid(io.ComfyNode):
    """Join a list of images, each with its label below, to one image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAImageGrid",
            display_name="Image Grid with Labels",
            category=CATEGORY,
            description="Joins images to one image, with a label below each of them.",
            is_input_list=True,
            search_aliases=["compare", "side by side", "XY plot", "contact sheet", "caption"],
            inputs=[
                io.Image.Input("images", tooltip="A list of images, of any sizes; or a batch with one label for all."),
                io.String.Input(
                    "labels",
                    force_input=True,
                    tooltip="One for each image: a list, for example from Apply LoRA at Several Strengths, or one text "
                    "with a label in each line.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=32,
                    tooltip=f"Images in a row; 0 is as many as fit, up to {COLUMNS}.",
                ),
            ],
            outputs=[io.Image.Output("grid", display_name="IMAGE", tooltip="One image, for Save Image.")],
        )

    @classmethod
    @takes_lists("images", "labels")
    def execute(cls, images: Sequence[Tensor], labels: Sequence[str], columns: int) -> io.NodeOutput:
        """Label every image; all images of one batch have the same label."""
        lines = [line.strip() for label in labels for line in str(label).splitlines() or [""]]
        if len(lines) != len(images):
            raise ValueError(
                f"found {len(images)} images or batches, but {len(lines)} labels: connect the list of images to "
                "`images`, and to `labels` one label for each of them"
            )
        labeled = [(image, line) for batch, line in zip(images, lines, strict=True) for image in image_batch(batch)]
        width = min(columns or COLUMNS, len(labeled))
        return io.NodeOutput(
            to_intermediate(labeled_grid(*zip(*labeled, strict=True), columns=width, max_side=MAX_SIDE))
        )
