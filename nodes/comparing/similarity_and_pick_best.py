"""Face Similarity and Pick Best Candidate: measure the likeness of generated images, and rank LoRAs by it."""

from collections.abc import Mapping, Sequence

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...difflora_core.encoders.face_encoder import FaceEncoder
from ...difflora_core.encoders.similarity import FaceSimilarities, face_similarities, rank_by_likeness
from ...difflora_core.images import image_list
from ..input_checks import takes_lists
from ..preview_images import similarity_grid
from ..sockets import CATEGORY, FaceAnalysis, InsightFace, node_schema, show_text, to_intermediate

ENCODER_TOOLTIP = (
    "From Load Face Analysis. For an unbiased measurement choose a model pack that the checkpoint was not trained with."
)


class FaceSimilarity(io.ComfyNode):
    """Measure the face similarity of images and reference images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAFaceSimilarity",
            display_name="Face Similarity",
            category=CATEGORY,
            description="Cosine similarity between the person in the reference images and the face in each image. "
            "Different people are near 0; typical values for the same person depend on the model pack.",
            is_input_list=True,
            search_aliases=["identity", "likeness", "cosine", "insightface", "compare faces"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("references", tooltip="Reference images of one person, of any sizes."),
                io.Image.Input("images", tooltip="Images to compare with that person; all of a list are compared."),
                io.MultiType.Input("face_analysis", [InsightFace, FaceAnalysis], tooltip=ENCODER_TOOLTIP),
            ],
            outputs=[
                io.Float.Output("similarity", display_name="FLOAT", tooltip="Mean cosine over the images."),
                io.String.Output(
                    "text", display_name="STRING", tooltip="The mean, and the cosine of each image, one per line."
                ),
                io.Image.Output(
                    "grid", display_name="IMAGE", tooltip="The images with boxes around the faces, and their cosines."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @takes_lists("references", "images")
    def execute(cls, references: Sequence[Tensor], images: Sequence[Tensor], face_analysis: object) -> io.NodeOutput:
        """Compare every image with the references; an image without a face counts as 0."""
        images = image_list(images)
        found = measured(face_analysis, references, [image[None] for image in images])
        text = describe(found)
        show_text(text, cls.hidden.unique_id)
        grid = to_intermediate(similarity_grid(images, found))
        return io.NodeOutput(found.mean, text, grid, ui=ui.PreviewText(text))


class PickBest(io.ComfyNode):
    """Choose the candidate whose images are most similar to the person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAPickBest",
            display_name="Pick Best Candidate",
            category=CATEGORY,
            description="Ranks the candidates of Sample LoRA by the face similarity of images generated with them.",
            is_input_list=True,
            search_aliases=["likeness", "rank", "choose LoRA", "select", "compare"],
            has_intermediate_output=True,
            inputs=[
                io.LoraModel.Input("loras", tooltip="All candidates, from Decode LoRA."),
                io.Image.Input("images", tooltip="Images generated with them, one batch for each candidate."),
                io.Image.Input("references", tooltip="Reference images of the person, of any sizes."),
                io.MultiType.Input("face_analysis", [InsightFace, FaceAnalysis], tooltip=ENCODER_TOOLTIP),
            ],
            outputs=[
                io.LoraModel.Output("lora", display_name="LORA_MODEL", tooltip="The best candidate."),
                io.Image.Output("best_images", display_name="IMAGE", tooltip="The images generated with it."),
                io.Float.Output("similarity", display_name="FLOAT", tooltip="Its mean cosine."),
                io.String.Output(
                    "text",
                    display_name="STRING",
                    tooltip="All candidates with their mean cosines, best first; images without a face rank last.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @takes_lists("loras", "images", "references")
    def execute(
        cls,
        loras: Sequence[Mapping[str, Tensor]],
        images: Sequence[Tensor],
        references: Sequence[Tensor],
        face_analysis: object,
    ) -> io.NodeOutput:
        """Rank; LoRAs and images are lists, since the nodes before run once for each candidate."""
        if len(loras) != len(images):
            raise ValueError(
                f"found {len(loras)} candidates, but images of {len(images)}: connect Decode LoRA to `loras`, and the "
                "images generated with each of them to `images`"
            )
        found = measured(face_analysis, references, images)
        shown = torch.tensor([face is not None for face in found.faces])
        cosines, faces = (values.split(list(map(len, images))) for values in (found.cosines, shown))
        order = rank_by_likeness(cosines, faces)
        lines = [f"candidate {row + 1}: {describe_candidate(likeness, faces[row])}" for row, likeness in order]
        text = "\n".join([*lines, *describe_left_out(found)])
        show_text(text, cls.hidden.unique_id)
        best, _ = order[0]
        return io.NodeOutput(loras[best], images[best], float(cosines[best].mean()), text, ui=ui.PreviewText(text))


def describe_candidate(likeness: float, faces: Tensor) -> str:
    """Return what a candidate is ranked by, and how many of its images show no face."""
    missing, text = int((~faces).sum()), f"{likeness:.3f}"
    if missing == len(faces):
        return f"{text}, no face"
    return f"{text}, no face in {missing} of {len(faces)} images" if missing else text


def measured(face_analysis: object, references: Sequence[Tensor], images: Sequence[Tensor]) -> FaceSimilarities:
    """Compare images with references under a progress bar, at whose updates ComfyUI can interrupt."""
    bar = comfy.utils.ProgressBar(1)
    return face_similarities(FaceEncoder(face_analysis), references, images, bar.update_absolute)


def describe(found: FaceSimilarities) -> str:
    """List the mean and every image's cosine, one per line, and references that are left out."""
    lines = [f"mean {found.mean:.3f}"]
    for number, (cosine, face) in enumerate(zip(found.cosines.tolist(), found.faces, strict=True), start=1):
        lines.append(f"image {number}: {cosine:.3f}" if face else f"image {number}: no face, counts as 0")
    return "\n".join([*lines, *describe_left_out(found)])


def describe_left_out(found: FaceSimilarities) -> list[str]:
    """List the references without a face, one per line."""
    return [f"reference {number}: no face, left out" for number in found.left_out]
