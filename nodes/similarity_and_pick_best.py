"""Face Similarity and Pick Best Candidate: how close a result really is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.encoders.face_encoder import FaceEncoder
from ..difflora_core.images import picture_batch
from ..difflora_core.similarity import Likeness, likeness
from .preview_images import similarity_grid
from .sockets import CATEGORY, FaceAnalysis, InsightFace, show_text, to_intermediate

ENCODER_TOOLTIP = "From Load Face Analysis. Honest figures need a model pack the checkpoint was not trained with."


class FaceSimilarity(io.ComfyNode):
    """Compare the faces of two batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAFaceSimilarity",
            display_name="Face Similarity",
            category=CATEGORY,
            description="Raw cosine between the person in the references and the face in each picture. "
            "Strangers are near 0; what the same person scores depends on the model pack.",
            inputs=[
                io.Image.Input("references", tooltip="Pictures of one person."),
                io.Image.Input("images", tooltip="Pictures to be compared with that person."),
                io.MultiType.Input("face_analysis", [InsightFace, FaceAnalysis], tooltip=ENCODER_TOOLTIP),
            ],
            outputs=[
                io.Float.Output("similarity", display_name="FLOAT", tooltip="Mean cosine over the pictures."),
                io.String.Output("text", display_name="STRING", tooltip="The cosine of each picture, a line each."),
                io.Image.Output("grid", display_name="IMAGE", tooltip="The pictures with their faces and cosines."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, references: Tensor, images: Tensor, face_analysis: object) -> io.NodeOutput:
        """Compare every picture with the references; a picture without a face counts as 0 and is named."""
        images = picture_batch(images)
        found = likeness(FaceEncoder(face_analysis), references, images)
        text = describe(found)
        show_text(text, cls.hidden.unique_id)
        grid = to_intermediate(similarity_grid(images, found))
        return io.NodeOutput(found.mean, text, grid, ui=ui.PreviewText(text))


class PickBest(io.ComfyNode):
    """Choose the candidate whose pictures look most like the person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAPickBest",
            display_name="Pick Best Candidate",
            category=CATEGORY,
            description="Ranks the candidates of Sample LoRA by the faces in the pictures made with them.",
            is_input_list=True,
            inputs=[
                io.LoraModel.Input("loras", tooltip="All candidates, from Decode LoRA."),
                io.Image.Input("images", tooltip="Pictures made with them, a batch for each candidate."),
                io.Image.Input("references", tooltip="Pictures of the person."),
                io.MultiType.Input("face_analysis", [InsightFace, FaceAnalysis], tooltip=ENCODER_TOOLTIP),
            ],
            outputs=[
                io.LoraModel.Output("lora", display_name="LORA_MODEL", tooltip="The best candidate."),
                io.Image.Output("best_images", display_name="IMAGE", tooltip="The pictures made with it."),
                io.Float.Output("similarity", display_name="FLOAT", tooltip="Its mean cosine."),
                io.String.Output("text", display_name="STRING", tooltip="All candidates, best first."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        loras: Sequence[Mapping[str, Tensor]],
        images: Sequence[Tensor],
        references: Sequence[Tensor],
        face_analysis: Sequence[object],
    ) -> io.NodeOutput:
        """Rank; every input is a list, as the nodes before ran once for each candidate."""
        if len(loras) != len(images):
            raise ValueError(
                f"found {len(loras)} candidates, but pictures of {len(images)}: connect Decode LoRA to `loras`, and "
                "what was drawn with each of them to `images`"
            )
        encoder, person = FaceEncoder(face_analysis[0]), one_batch(references)
        means = torch.tensor([likeness(encoder, person, batch).mean for batch in images])
        order = means.argsort(descending=True, stable=True).tolist()
        text = "\n".join(f"candidate {row + 1}: {means[row]:.3f}" for row in order)
        node_id: Any = cls.hidden.unique_id
        show_text(text, node_id[0] if isinstance(node_id, list) else node_id)
        best = order[0]
        return io.NodeOutput(loras[best], images[best], float(means[best]), text, ui=ui.PreviewText(text))


def one_batch(pictures: Sequence[Tensor]) -> Tensor:
    """The references as one batch.

    Raises:
        ValueError: several batches, which is what a list node in front of `references` makes.
    """
    if len(pictures) != 1:
        raise ValueError(f"`references` takes one batch of pictures, found a list of {len(pictures)} batches")
    return pictures[0]


def describe(found: Likeness) -> str:
    """The mean and every picture's cosine, a line each."""
    lines = [f"mean {found.mean:.3f}"]
    for number, (cosine, face) in enumerate(zip(found.cosines.tolist(), found.faces, strict=True), start=1):
        lines.append(f"picture {number}: {cosine:.3f}" if face else f"picture {number}: no face, counts as 0")
    return "\n".join(lines)
