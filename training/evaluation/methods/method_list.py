"""Methods by their settings."""

from ..options.method_settings import MethodSettings
from ..settings import EvaluationSettings
from .comfyui_workflow import ComfyUIWorkflow
from .given_images import GivenImages
from .instant_id import InstantIDMethod
from .learned_token import LearnedTokens
from .loras.autoencoded_lora import AutoencodedLoRAs
from .loras.given_loras import LoRAFiles
from .loras.mean_lora import MeanLoRA
from .loras.on_positive_side import OnPositiveSide
from .loras.predicted_lora import PredictedLoRAs
from .loras.refined_lora import RefinedLoRAs
from .loras.ridge_lora import RidgeLoRAs
from .loras.trained_lora import TrainedLoRAs
from .method import Method
from .no_lora import NoLoRA
from .photomaker_v1 import PhotoMakerV1
from .shared_base import SharedBase

LORAS = "loras"
"""Folder in the output for LoRAs that methods make."""
EMBEDDINGS = "embeddings"
"""Folder in the output for tokens' embeddings that methods make."""


def open_method(name: str, settings: EvaluationSettings, base: SharedBase) -> Method | GivenImages:
    """Make a method; what it needs is loaded when the first person is prepared.

    Args:
        name: Of the method.
        settings: Of the evaluation.
        base: The shared base model.

    Raises:
        FileNotFoundError: A workflow is not there.
        ValueError: It can't be run.
    """
    own = settings.methods[name]
    method = _open(name, own, settings, base)
    if own.side == "positive":
        assert not isinstance(method, GivenImages)  # the settings have checked it
        return OnPositiveSide(method, base)
    return method


def _open(name: str, own: MethodSettings, settings: EvaluationSettings, base: SharedBase) -> Method | GivenImages:
    """Make a method, whichever side its LoRA acts on."""
    subject = own.subject or settings.class_word
    loras = settings.output / LORAS / name
    if own.kind == "none":
        return NoLoRA(base, subject)
    if own.kind == "dreambooth":
        return TrainedLoRAs(base, own, subject, loras)
    if own.kind == "textual_inversion":
        return LearnedTokens(base, own, settings.class_word, settings.output / EMBEDDINGS / name)
    assert own.path is not None  # the settings have checked it
    if own.kind == "mean_lora":
        return MeanLoRA(base, own.path, subject, loras)
    if own.kind == "ridge":
        return RidgeLoRAs(base, own, subject, loras)
    if own.kind == "lora" and own.checkpoint is not None:
        return AutoencodedLoRAs(base, own.path, own.checkpoint, subject, loras)
    if own.kind == "lora":
        return LoRAFiles(base, own.path, subject)
    if own.kind == "difflora" and own.refinement is not None:
        return RefinedLoRAs(base, own, own.refinement, subject, loras)
    if own.kind == "difflora":
        return PredictedLoRAs(base, own, subject, loras)
    if own.kind == "photomaker":
        return PhotoMakerV1(base, own, subject)
    if own.kind == "instantid":
        return InstantIDMethod(base, own, subject)
    if own.kind == "comfyui":
        return ComfyUIWorkflow(own, subject, settings.negative)
    return GivenImages(own.path, own.references)
