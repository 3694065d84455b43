"""Encode Face and Mix Features: from reference images to the condition of the diffusion."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.encoders.face_encoder import Choice, EncodedFace, FaceEncoder
from ..difflora_core.images import image_list
from ..difflora_core.references import ReferenceImage, encode_references
from .input_checks import takes_lists
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
    hash_tensors,
    node_schema,
    show_text,
    to_intermediate,
)


class EncodeFace(io.ComfyNode):
    """Find one face in every image and compute its embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAEncodeFace",
            display_name="Encode Face",
            category=CATEGORY,
            description="Computes a face embedding for each reference image, and image features if there is an image "
            "encoder. Several images improve the likeness.",
            is_input_list=True,
            advanced=["index", "aligned"],
            search_aliases=[
                "identity",
                "portrait",
                "likeness",
                "InstantID",
                "insightface",
                "face embedding",
                "image features",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Reference images of one person: a batch, or a list of images of any sizes. All are used.",
                ),
                io.MultiType.Input(
                    "face_analysis",
                    [InsightFace, FaceAnalysis],
                    tooltip="From Load Face Analysis, or from another pack's InsightFace loader.",
                ),
                io.Combo.Input(
                    "choose",
                    options=list(get_args(Choice)),
                    default="largest",
                    tooltip="How to order the faces of an image that shows several.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=63,
                    tooltip="Which face in that order: the number in its box, 0 is the first. The same in all images.",
                ),
                io.Boolean.Input(
                    "aligned",
                    default=False,
                    tooltip="On: the images are aligned faces, square as this node's IMAGE output; taken as they are.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision, for the image features: then CLIP Vision Encode is not needed.",
                ),
            ],
            outputs=[
                Face.Output("face", display_name="DIFFLORA_FACE", tooltip="For Mix Features."),
                io.Image.Output(
                    "crops", display_name="IMAGE", tooltip="The aligned faces, as passed to the recognizer."
                ),
                io.ClipVisionOutput.Output(
                    "clip_vision_output",
                    display_name="CLIP_VISION_OUTPUT",
                    tooltip="Features of each image, for Mix Features; none without clip_vision.",
                    is_output_list=True,
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @takes_lists("image")
    def execute(
        cls,
        image: Sequence[Tensor],
        face_analysis: object,
        choose: Choice,
        index: int,
        aligned: bool,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        """Encode every image, and show what is odd; an image without the chosen face is an error that names it."""
        encoder, images = FaceEncoder(face_analysis), image_list(image)
        progress = comfy.utils.ProgressBar(len(images))
        found: list[EncodedFace] = []

        def on_image(outcome: ReferenceImage) -> None:
            if outcome.face is not None:
                found.append(outcome.face)
            progress.update(1)

        used = encode_references(images, encoder, None, choose=choose, index=index, aligned=aligned, on_image=on_image)
        embeddings = torch.stack([face.embedding for face in found])
        features = FaceFeatures(to_intermediate(embeddings), encoder.name, hash_tensors(images))
        crops = to_intermediate(torch.stack([face.crop for face in found]))
        outputs = [] if clip_vision is None else list(map(partial(encode_upright, clip_vision), images, found))
        boxes = [with_boxes(*pair, numbered=True) for pair in zip(images, found, strict=True)]
        preview = ui.PreviewImage(boxes, cls=cls).as_dict()
        if used.remarks:
            preview["text"] = used.remarks
            show_text("\n".join(used.remarks), cls.hidden.unique_id)
        return io.NodeOutput(features, crops, outputs, ui=preview)


def encode_upright(clip_vision: Any, image: Tensor, face: EncodedFace) -> Any:
    """Compute an image's CLIP_VISION_OUTPUT, of the image (height, width, 3) turned as its face was."""
    return clip_vision.encode_image(torch.rot90(image, face.quarter_turns)[None])


class MixFeatures(io.ComfyNode):
    """Mix face and image features by the gate (mixed image features, MIF)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAMixFeatures",
            display_name="Mix Features",
            category=CATEGORY,
            description="Mixes face and image features with the weights of a learned gate, which the node shows.",
            is_input_list=True,
            search_aliases=["identity", "portrait", "likeness", "image features", "gate"],
            has_intermediate_output=True,
            inputs=[
                DiffLoRAModel.Input("model", tooltip="From Load DiffLoRA."),
                Face.Input("face", optional=True, tooltip="From Encode Face. Not needed with mode image."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="From Encode Face with clip_vision, or from CLIP Vision Encode (model: see Load DiffLoRA). "
                    "Not needed with mode face.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["gate", "slider", "face", "image"],
                    default="gate",
                    tooltip="gate: predicted weights. slider: weights from image_share. face, image: only one of them.",
                ),
                io.Float.Input(
                    "image_share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="With mode slider: weight of the image features, from 0 (face only) to 1 (image only).",
                ),
            ],
            outputs=[Features.Output("features", display_name="DIFFLORA_FEATURES", tooltip="For Sample LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @takes_lists("clip_vision_output")
    def execute(
        cls,
        model: LoadedDiffLoRA,
        mode: str,
        image_share: float,
        face: FaceFeatures | None = None,
        clip_vision_output: Sequence[Mapping[str, Tensor] | None] = (),
    ) -> io.NodeOutput:
        """Check that the face features are from the encoder that the checkpoint was trained with, and mix."""
        embeddings = None if face is None or mode == "image" else check_face(model, face)
        image = None if mode == "face" else image_features(clip_vision_output)
        if embeddings is None and mode != "image":
            raise ValueError(f"mode {mode!r} needs a face: connect Encode Face to `face`, or choose mode 'image'")
        if image is None and mode != "face":
            raise ValueError(
                f"mode {mode!r} needs image features: connect Load CLIP Vision to `clip_vision` of Encode Face, and "
                "its CLIP_VISION_OUTPUT to `clip_vision_output`, or choose mode 'face'"
            )
        mixed = model.on_device().mix(
            embeddings,
            image,
            mode="gate" if mode == "slider" else mode,
            image_share=image_share if mode == "slider" else None,
        )
        description = f"face {mixed.face_weight:.0%}  image {mixed.image_weight:.0%}"
        show_text(description, cls.hidden.unique_id)
        references = face.references if face else hash_tensors(image)  # type: ignore[arg-type]
        return io.NodeOutput(
            MixedFeatures(to_intermediate(mixed.condition), model.name, references), ui=ui.PreviewText(description)
        )


def image_features(outputs: Sequence[Mapping[str, Tensor] | None]) -> Tensor | None:
    """Join the image features (images, width) of CLIP_VISION_OUTPUTs; None without any.

    Raises:
        ValueError: They are of several image encoders.
    """
    features = [output["image_embeds"] for output in outputs if output is not None]
    widths = {feature.shape[-1] for feature in features}
    if len(widths) > 1:
        raise ValueError(
            f"`clip_vision_output` has features of the widths {', '.join(map(str, sorted(widths)))}, which several "
            "image encoders made: encode all images with the one that Load DiffLoRA shows"
        )
    return torch.cat(features) if features else None


def check_face(model: LoadedDiffLoRA, face: FaceFeatures) -> Tensor:
    """Return the face embeddings for use with this checkpoint.

    Raises:
        ValueError: They are from another recognizer than the checkpoint was trained with.
    """
    expected = model.difflora.config.encoders.face
    if face.encoder != expected:
        raise ValueError(
            f"the face was encoded with {face.encoder!r}, but {model.name} was trained with {expected!r}; "
            f"choose the model pack {expected!r} in Load Face Analysis"
        )
    return face.embeddings
