"""Load CLIP Vision of any size onto ComfyUI's native CLIP_VISION socket."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.clip_vision
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ...difflora_core.fields import read_json_file
from ...difflora_core.files import read_shapes
from ..file_names import fingerprint_files
from ..sockets import CATEGORY, node_schema

WEIGHTS, CONFIG, PREPROCESSING = "model.safetensors", "config.json", "preprocessor_config.json"
IMAGE_ENCODER = ("vision_model.", "visual_projection.")
"""Beginnings of the names of a whole CLIP's weights that its image encoder has."""
NO_MODEL = "no CLIP vision model found"


class LoadCLIPVision(io.ComfyNode):
    """Load a file, as the core loader does, or a folder that transformers saved.

    The core loader recognizes published models by their number of layers. A folder has its sizes in its config.json, so
    any size can be loaded: the miniature's, or a model trained elsewhere.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRALoadCLIPVision",
            display_name="Load CLIP Vision (any size)",
            category=CATEGORY,
            description="Loads an image encoder: a published model's file, or a transformers folder of any size.",
            search_aliases=["image encoder", "image features", "transformers", "ViT", "IPAdapter"],
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=[*folders(), *files()] or [NO_MODEL],
                    tooltip="A file or folder in models/clip_vision; Load DiffLoRA shows which one is needed.",
                )
            ],
            outputs=[io.ClipVision.Output("clip_vision", display_name="CLIP_VISION", tooltip="For Encode Face.")],
        )

    @classmethod
    def fingerprint_inputs(cls, clip_name: str) -> str:
        """Return a string that changes with the files on disk: the weights, and those beside them in a folder."""
        path = weights_path(clip_name)
        beside = map(path.with_name, (CONFIG, PREPROCESSING)) if clip_name in folders() else ()
        return fingerprint_files(path, *beside)

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        """Load the model; every weight has to fit ComfyUI's CLIP vision."""
        path = weights_path(clip_name)
        if clip_name in folders():
            return io.NodeOutput(load_folder(path))
        clip_vision = comfy.clip_vision.load(str(path))
        if clip_vision is None:
            raise ValueError(f"{clip_name} is not a CLIP vision model that ComfyUI recognizes")
        return io.NodeOutput(clip_vision)


def load_folder(path: Path) -> Any:
    """Build ComfyUI's own CLIP vision model from a folder's configuration and load all its weights.

    Args:
        path: The folder's model.safetensors; config.json lies beside it, and preprocessor_config.json may. Of a whole
            CLIP, as it is published, only the image encoder is loaded.

    Raises:
        ValueError: It is another kind of model, weights are missing or left over, or a file is damaged.
    """
    read_shapes(path)  # says what another file is
    config, preprocessing = path.with_name(CONFIG), path.with_name(PREPROCESSING)
    settings = read_json_file(config)
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    if isinstance(vision := settings.get("vision_config"), dict):
        settings = vision | {name: settings[name] for name in ("projection_dim",) if name in settings}
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(IMAGE_ENCODER)}
    try:
        clip_vision = build(settings, config)
        if preprocessing.exists():
            settings = read_json_file(preprocessing)
            clip_vision.image_mean, clip_vision.image_std = settings["image_mean"], settings["image_std"]
        missing, unexpected = clip_vision.load_sd(weights)
    except (KeyError, RuntimeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise ValueError(f"{path.parent} is not a CLIP vision model as transformers saves it: {problem}") from error
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]
    if missing or unexpected:
        raise ValueError(
            f"{path.parent} is not a CLIP vision model as transformers saves it: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
    return clip_vision


def build(settings: dict[str, Any], source: Path) -> Any:
    """Make ComfyUI's CLIP vision model, which reads its configuration from a file.

    Args:
        settings: The configuration.
        source: Where it is from, for errors.

    Raises:
        KeyError: The configuration lacks a size.
        ValueError: It is of another kind of model.
    """
    kind = settings.get("model_type", "clip_vision_model")
    if kind not in comfy.clip_vision.IMAGE_ENCODERS:
        known = ", ".join(comfy.clip_vision.IMAGE_ENCODERS)
        raise ValueError(f"{source} is of a model of type {kind!r}, ComfyUI knows {known}")
    with TemporaryDirectory() as folder:
        config = Path(folder, source.name)
        config.write_text(json.dumps(settings), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(config)


def folders() -> list[str]:
    """List the folders in models/clip_vision that contain a model in transformers' format."""
    listed = map(Path, folder_paths.get_filename_list("clip_vision"))
    models = [file for file in listed if file.name == WEIGHTS and file.parent != Path()]
    paths = {file.parent.as_posix(): folder_paths.get_full_path("clip_vision", str(file)) for file in models}
    # Without a path it is a link to a file that is gone
    return sorted(name for name, path in paths.items() if path and Path(path).with_name(CONFIG).exists())


def files() -> list[str]:
    """List all other files in models/clip_vision."""
    in_folders = {f"{folder}/{WEIGHTS}" for folder in folders()}
    return [name for name in folder_paths.get_filename_list("clip_vision") if Path(name).as_posix() not in in_folders]


def weights_path(name: str) -> Path:
    """Return the path of the weights of one of the choices.

    Raises:
        FileNotFoundError: There is none.
    """
    if name == NO_MODEL:
        raise FileNotFoundError(
            "there is no CLIP vision model in models/clip_vision: put the image encoder there that Load DiffLoRA shows"
        )
    file = f"{name}/{WEIGHTS}" if name in folders() else name
    return Path(folder_paths.get_full_path_or_raise("clip_vision", file))
