"""Load CLIP Vision of any size onto ComfyUI's native CLIP_VISION socket."""

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ...difflora_core.fields import read_json
from ...difflora_core.files import read_shapes
from ..sockets import CATEGORY, node_schema

WEIGHTS = "model.safetensors"
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
        """Return a string that changes with the file on disk."""
        status = weights_path(clip_name).stat()
        return f"{clip_name}:{status.st_mtime_ns}:{status.st_size}"

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
        path: The folder's model.safetensors; config.json lies beside it, and preprocessor_config.json may.

    Raises:
        ValueError: Weights are missing or left over, or a file is damaged.
    """
    read_shapes(path)  # says what another file is
    config, preprocessing = path.with_name("config.json"), path.with_name("preprocessor_config.json")
    read_json(config.read_text(encoding="utf-8"), str(config))
    try:
        clip_vision = comfy.clip_vision.ClipVisionModel(config)
        if preprocessing.exists():
            settings = read_json(preprocessing.read_text(encoding="utf-8"), str(preprocessing))
            clip_vision.image_mean, clip_vision.image_std = settings["image_mean"], settings["image_std"]
    except KeyError as error:
        raise ValueError(
            f"{path.parent} is not a CLIP vision model as transformers saves it: {error} is missing"
        ) from error
    missing, unexpected = clip_vision.load_sd(comfy.utils.load_torch_file(str(path), safe_load=True))
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]
    if missing or unexpected:
        raise ValueError(
            f"{path.parent} is not a CLIP vision model as transformers saves it: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
    return clip_vision


def folders() -> list[str]:
    """List the folders in models/clip_vision that contain a model in transformers' format."""
    listed = map(Path, folder_paths.get_filename_list("clip_vision"))
    return sorted(
        file.parent.as_posix()
        for file in listed
        if file.name == WEIGHTS
        and Path(folder_paths.get_full_path_or_raise("clip_vision", str(file))).with_name("config.json").exists()
    )


def files() -> list[str]:
    """List all other files in models/clip_vision."""
    in_folders = {f"{folder}/{WEIGHTS}" for folder in folders()}
    return [name for name in folder_paths.get_filename_list("clip_vision") if Path(name).as_posix() not in in_folders]


def weights_path(name: str) -> Path:
    """Return the path of the weights of one of the choices."""
    file = f"{name}/{WEIGHTS}" if name in folders() else name
    return Path(folder_paths.get_full_path_or_raise("clip_vision", file))
