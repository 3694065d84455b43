"""Methods by their settings."""

from ..method_settings import MethodSettings
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
    """Make a method of each kind, whichever side its LoRA acts on."""
    subject = own.subject or settings.class_word
    loras = settings.output / LORAS / name
    match own.kind:
        case "none":
            return NoLoRA(base, subject)
        case "mean_lora":
            return MeanLoRA(base, own.given_path, subject, loras)
        case "lora" if own.checkpoint is not None:
            return AutoencodedLoRAs(base, own.given_path, own.checkpoint, subject, loras)
        case "lora":
            return LoRAFiles(base, own.given_path, subject)
        case "ridge":
            return RidgeLoRAs(base, own, subject, loras)
        case "dreambooth":
            return TrainedLoRAs(base, own, subject, loras)
        case "textual_inversion":
            return LearnedTokens(base, own, settings.class_word, settings.output / EMBEDDINGS / name)
        case "difflora" if own.refinement is not None:
            return RefinedLoRAs(base, own, own.refinement, subject, loras)
        case "difflora":
            return PredictedLoRAs(base, own, subject, loras)
        case "photomaker":
            return PhotoMakerV1(base, own, subject)
        case "instantid":
            return InstantIDMethod(base, own, subject)
        case "images":
            return GivenImages(own.given_path, own.references)
        case "comfyui":
            return ComfyUIWorkflow(own, subject, settings.negative)
