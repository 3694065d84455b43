"""Load Face Analysis: insightface's detector and recognizer, from models/insightface."""

import importlib.metadata
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..difflora_core.encoders.face_encoder import FaceEncoder
from .sockets import CATEGORY, InsightFace

NO_PACK = "no model pack found"
HOW_TO = (
    "Unpack one, for instance buffalo_l from github.com/deepinsight/insightface/releases (licensed for "
    "non-commercial research), so that its .onnx files lie in models/insightface/models/<name>/."
)
SUFFIX = "ExecutionProvider"
VARIANTS = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-silicon")
"""Packages that write into the same folder as onnxruntime."""


class LoadFaceAnalysis(io.ComfyNode):
    """Load a model pack of insightface; nothing is ever downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="DiffLoRALoadFaceAnalysis",
            display_name="Load Face Analysis",
            category=CATEGORY,
            description="Loads insightface's face detector and recognizer. Works with other packs' nodes too.",
            inputs=[
                io.Combo.Input(
                    "model_pack",
                    options=sorted(packs()) or [NO_PACK],
                    tooltip="A folder in models/insightface/models. The DiffLoRA checkpoint says which one it needs.",
                ),
                io.Combo.Input(
                    "provider",
                    options=providers(),
                    default="CPU",
                    tooltip="Where the face models run, as the installed onnxruntime offers it. CPU is fast enough.",
                ),
            ],
            outputs=[InsightFace.Output("face_analysis", display_name="INSIGHTFACE", tooltip="For Encode Face.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_pack: str, provider: str) -> str:
        """Change when a file of the pack does."""
        files = sorted(packs()[model_pack].glob("*.onnx")) if model_pack in packs() else []
        return ";".join(f"{file}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files) + provider

    @classmethod
    def execute(cls, model_pack: str, provider: str) -> io.NodeOutput:
        """Load the pack, after checks that insightface itself answers with a download or an assertion."""
        folder = packs().get(model_pack)
        if folder is None:
            raise FileNotFoundError(f"no face model pack {model_pack!r} in models/insightface/models. {HOW_TO}")
        return io.NodeOutput(load_face_analysis(folder, provider))


def packs() -> dict[str, Path]:
    """Model packs by name: every folder in models/insightface/models that holds something."""
    roots = (Path(folder) / "models" for folder in folder_paths.get_folder_paths("insightface"))
    return {
        folder.name: folder
        for root in roots
        if root.is_dir()
        for folder in root.iterdir()
        if folder.is_dir() and any(folder.iterdir())
    }


def providers() -> list[str]:
    """Short names of the providers that the installed onnxruntime has, `CPU` always among them."""
    try:
        import onnxruntime
    except ImportError:
        return ["CPU"]
    available = [name.removesuffix(SUFFIX) for name in onnxruntime.get_available_providers()]
    if "CUDA" not in available and _installed("onnxruntime-gpu") and _installed("onnxruntime"):
        _warn(
            "DiffLoRA: onnxruntime and onnxruntime-gpu have overwritten each other's files, and CUDA is lost. Repair: "
            f'"{sys.executable}" -m pip uninstall -y onnxruntime; then '
            f'"{sys.executable}" -m pip install --force-reinstall --no-deps onnxruntime-gpu'
        )
    return ["CPU", *sorted(set(available) - {"CPU"})]


def load_face_analysis(folder: Path, provider: str) -> Any:
    """Return a prepared FaceAnalysis of the pack in `folder`.

    Raises:
        ImportError: insightface is not installed.
        FileNotFoundError: the folder holds no models, or holds them one level too deep.
    """
    try:
        return FaceEncoder.open(folder.name, folder.parent.parent, [provider + SUFFIX]).analysis
    except ImportError as error:
        raise ImportError(f"{error}. {how_to_install()}") from error


def how_to_install() -> str:
    """What to type so that faces can be analyzed: insightface brings onnxruntime, which overwrites its variants."""
    pip = f'"{sys.executable}" -m pip'
    variant = next((name for name in VARIANTS if _installed(name)), None)
    repair = f"; then {pip} uninstall -y onnxruntime; then {pip} install --force-reinstall --no-deps {variant}"
    return (
        "Faces are found with insightface. Install it into ComfyUI's own Python and restart ComfyUI: "
        f"{pip} install insightface{repair if variant else ''}"
    )


@cache
def _warn(message: str) -> None:
    """Once, not every time that the page asks for the choices."""
    logging.warning(message)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
