"""The encoders that a DiffLoRA checkpoint is used with, by the contents of their files."""

from difflora_core.checkpoint import read_checkpoint_header
from difflora_core.encoders.loaded import LoadedEncoders
from difflora_core.files import read_shapes
from training.lora_dataset.config import FacesConfig
from training.lora_dataset.fingerprints import Fingerprint, hash_face_models, hash_files

from ...method_settings import MethodSettings


def hash_encoders(settings: MethodSettings) -> Fingerprint:
    """Hash the files of face models and image encoder, where `DiffLoRA.personalize` finds them.

    Args:
        settings: Of the kind difflora or ridge.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is no checkpoint.
    """
    shapes, metadata = read_shapes(settings.given_path)
    _, config = read_checkpoint_header(settings.given_path, metadata, shapes)
    encoders = LoadedEncoders(config.encoders)
    encoders.look_beside(settings.given_path)
    faces = settings.face_models or encoders.models / "insightface"
    images = settings.image_encoder or encoders.models / "clip_vision" / config.encoders.image
    return {
        "face models": hash_face_models(FacesConfig(config.encoders.face, faces)),
        "image encoder": hash_files(sorted(path for path in images.glob("*") if path.is_file())),
    }
