"""Encode Face and Mix Features: from pictures to what conditions the diffusion."""

from typing import get_args

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.encoders.face_encoder import Choice, FaceEncoder
from ..difflora_core.images import picture_batch
from .preview_images import with_boxes
from .sockets import (
    CATEGORY,
    DiffLoRAModel,
    Face,
    FaceAnalysis,
    FaceFeatures,
    Features,
    InsightFace,
    LoadedDiffLoRA,
    MixedFeatures,
    fingerprint,
    show_text,
    to_intermediate,
)


class EncodeFace(io.ComfyNode):
    """Find one face in every picture of a batch and describe it as numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAEncodeFace",
            display_name="Encode Face",
            category=CATEGORY,
            description="Finds the person's face in each reference picture. Several make the likeness steadier.",
            inputs=[
                io.Image.Input("image", tooltip="Reference pictures of one person; every picture of the batch counts."),
                io.MultiType.Input(
                    "face_analysis",
                    [InsightFace, FaceAnalysis],
                    tooltip="From Load Face Analysis, or from another pack's InsightFace loader.",
                ),
                io.Combo.Input(
                    "choose",
                    options=list(get_args(Choice)),
                    default="largest",
                    tooltip="Which face, where a picture shows several: by size, from the left, or the surest.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=63,
                    tooltip="0 is the first: the largest, leftmost or surest. The same for every picture.",
                ),
                io.Boolean.Input(
                    "aligned",
                    default=False,
                    tooltip="On: the pictures already are aligned faces, such as this node's IMAGE gives.",
                ),
            ],
            outputs=[
                Face.Output("face", display_name="DIFFLORA_FACE", tooltip="For Mix Features."),
                io.Image.Output(
                    "crops", display_name="IMAGE", tooltip="The aligned faces, as the recognizer sees them."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, face_analysis: object, choose: Choice, index: int, aligned: bool) -> io.NodeOutput:
        """Encode every picture; a picture without the asked-for face is an error that names it."""
        encoder, image = FaceEncoder(face_analysis), picture_batch(image)
        progress = comfy.utils.ProgressBar(len(image))
        found = []
        for picture in encoder.pictures(image, choose=choose, index=index, aligned=aligned):
            found.append(picture)
            progress.update(1)
        embeddings = torch.stack([picture.embedding for picture in found])
        face = FaceFeatures(to_intermediate(embeddings), encoder.name, fingerprint(image))
        crops = to_intermediate(torch.stack([picture.crop for picture in found]))
        boxes = torch.stack([with_boxes(*pair) for pair in zip(image, found, strict=True)])
        return io.NodeOutput(face, crops, ui=ui.PreviewImage(boxes, cls=cls))


class MixFeatures(io.ComfyNode):
    """Mix face and image features through the gate (paper: mixed image features)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAMixFeatures",
            display_name="Mix Features",
            category=CATEGORY,
            description="Mixes face and image features; a learned gate weighs the two and the node shows the weights.",
            inputs=[
                DiffLoRAModel.Input("model", tooltip="From Load DiffLoRA."),
                Face.Input("face", optional=True, tooltip="From Encode Face. Not needed in mode image."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="From CLIP Vision Encode, with the encoder Load DiffLoRA names. Not needed in mode face.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["gate", "slider", "face", "image"],
                    default="gate",
                    tooltip="gate: learned weights, for each person anew. slider: image_share. face, image: one alone.",
                ),
                io.Float.Input(
                    "image_share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="With mode slider: 0 is the face alone, 1 the whole picture alone.",
                ),
            ],
            outputs=[Features.Output("features", display_name="DIFFLORA_FEATURES", tooltip="For Sample LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedDiffLoRA,
        mode: str,
        image_share: float,
        face: FaceFeatures | None = None,
        clip_vision_output: object | None = None,
    ) -> io.NodeOutput:
        """Check that the features are of the encoders the checkpoint was trained with, and mix them."""
        embeddings = None if face is None or mode == "image" else check_face(model, face)
        image = None if clip_vision_output is None or mode == "face" else clip_vision_output["image_embeds"]  # type: ignore[index]
        if embeddings is None and mode != "image":
            raise ValueError(f"mode {mode!r} needs a face: connect Encode Face to `face`, or choose mode 'image'")
        if image is None and mode != "face":
            raise ValueError(
                f"mode {mode!r} needs image features: connect CLIP Vision Encode to `clip_vision_output`, "
                "or choose mode 'face'"
            )
        features, gate = model.on_device().mix(
            embeddings,
            image,
            mode="gate" if mode == "slider" else mode,
            image_share=image_share if mode == "slider" else None,
            return_gate=True,
        )
        description = "  ".join(f"{name} {weight:.0%}" for name, weight in gate.items())
        show_text(description, cls.hidden.unique_id)
        references = face.references if face else fingerprint(image)  # type: ignore[arg-type]
        return io.NodeOutput(
            MixedFeatures(to_intermediate(features), model.name, references), ui=ui.PreviewText(description)
        )


def check_face(model: LoadedDiffLoRA, face: FaceFeatures) -> Tensor:
    """Return the embeddings, or refuse those of another recognizer: they are numbers of another language."""
    expected = model.difflora.config.encoders.face
    if face.encoder != expected:
        raise ValueError(
            f"the face was encoded with {face.encoder!r}, but {model.name} was trained with {expected!r}; "
            f"choose the model pack {expected!r} in Load Face Analysis"
        )
    return face.embeddings
