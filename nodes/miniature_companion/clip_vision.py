"""Puts a transformers CLIP vision folder of any size on ComfyUI's native CLIP_VISION socket."""

import json
from pathlib import Path

import comfy.clip_vision
import comfy.utils
import folder_paths
from comfy_api.latest import io


class LoadMiniatureClipVision(io.ComfyNode):
    """Load `models/clip_vision/<folder>/` as transformers saves it: config.json beside model.safetensors.

    The core loader knows published models by their number of layers; the miniature's has its sizes in its config.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRAMiniatureLoadCLIPVision",
            display_name="Load CLIP Vision (miniature)",
            category="DiffLoRA/miniature",
            description="Loads the miniature's tiny CLIP vision model, for tests and the demo.",
            inputs=[io.Combo.Input("clip_name", options=folders(), tooltip="A folder of models/clip_vision.")],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, clip_name: str) -> str:
        """Change when the file on disk does."""
        status = weights(clip_name).stat()
        return f"{clip_name}:{status.st_mtime_ns}:{status.st_size}"

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        """Build ComfyUI's own CLIP vision model from the folder's configuration and fill in every weight."""
        path = weights(clip_name)
        clip_vision = comfy.clip_vision.ClipVisionModel(path.with_name("config.json"))
        preprocessing = path.with_name("preprocessor_config.json")
        if preprocessing.exists():
            settings = json.loads(preprocessing.read_text(encoding="utf-8"))
            clip_vision.image_mean, clip_vision.image_std = settings["image_mean"], settings["image_std"]
        missing, unexpected = clip_vision.load_sd(comfy.utils.load_torch_file(str(path), safe_load=True))
        unexpected = [name for name in unexpected if not name.endswith("position_ids")]
        if missing or unexpected:
            raise ValueError(f"{path}: not this CLIP vision model: missing {missing[:3]}, unexpected {unexpected[:3]}")
        return io.NodeOutput(clip_vision)


def folders() -> list[str]:
    """Names of the folders in models/clip_vision that hold a transformers model."""
    files = map(Path, folder_paths.get_filename_list("clip_vision"))
    return sorted(
        file.parent.as_posix()
        for file in files
        if file.name == "model.safetensors"
        and Path(folder_paths.get_full_path_or_raise("clip_vision", str(file))).with_name("config.json").exists()
    )


def weights(name: str) -> Path:
    """Path of the weights of one of `folders()`."""
    return Path(folder_paths.get_full_path_or_raise("clip_vision", f"{name}/model.safetensors"))
