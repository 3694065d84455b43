"""Load Face Analysis: InsightFace's detector and recognizer, from models/insightface."""

import importlib.metadata
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...difflora_core.encoders.face_encoder import FaceEncoder
from ..file_names import fingerprint_files
from ..sockets import CATEGORY, DiffLoRAModel, InsightFace, LoadedDiffLoRA, node_schema
from .difflora_folder import face_encoders

AUTO = "auto"
NO_PACK = "no model pack found"
HOW_TO_GET_A_PACK = (
    "Unpack one, for example buffalo_l from github.com/deepinsight/insightface/releases (licensed for "
    "non-commercial research), so that its .onnx files are in models/insightface/models/<name>/."
)
SUFFIX = "ExecutionProvider"
RUNTIME_VARIANTS = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-silicon")
"""Packages that install into the same folder as onnxruntime."""


class LoadFaceAnalysis(io.ComfyNode):
    """Load a model pack of InsightFace; nothing is ever downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRALoadFaceAnalysis",
            display_name="Load Face Analysis",
            category=CATEGORY,
            description="Loads InsightFace's face detector and recognizer. Nodes of other packs accept them, too.",
            advanced=["provider"],
            search_aliases=["insightface", "InstantID", "buffalo_l", "antelopev2", "face detector"],
            inputs=[
                io.Combo.Input(
                    "model_pack",
                    options=[AUTO, *(sorted(packs()) or [NO_PACK])],
                    default=AUTO,
                    tooltip="auto: the pack that the checkpoint was trained with. Or a folder in "
                    "models/insightface/models; to measure likeness, one that it was not trained with.",
                ),
                io.Combo.Input(
                    "provider",
                    options=providers(),
                    default="CPU",
                    tooltip="Execution provider of onnxruntime that runs the face models. CPU is fast enough.",
                ),
                DiffLoRAModel.Input(
                    "model",
                    optional=True,
                    tooltip="From Load DiffLoRA, for auto. Needed if the checkpoints in models/difflora differ.",
                ),
            ],
            outputs=[
                InsightFace.Output(
                    "face_analysis", display_name="INSIGHTFACE", tooltip="Detector and recognizer, for Encode Face."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_pack: str, provider: str, **_: object) -> str:
        """Return a string that changes with the files of the pack; with auto, of all packs."""
        chosen = [folder for name, folder in packs().items() if model_pack in (AUTO, name)]
        files = sorted(file for folder in chosen for file in folder.glob("*.onnx"))
        wanted = str(face_encoders()) if model_pack == AUTO else ""
        return fingerprint_files(*files) + provider + wanted

    @classmethod
    def execute(cls, model_pack: str, provider: str, model: LoadedDiffLoRA | None = None) -> io.NodeOutput:
        """Load the pack; a missing one is an error here, where InsightFace itself would download it."""
        name = wanted_pack(model) if model_pack == AUTO else model_pack
        folder = packs().get(name)
        if folder is None:
            raise FileNotFoundError(f"no face model pack {name!r} in models/insightface/models. {HOW_TO_GET_A_PACK}")
        return io.NodeOutput(load_face_analysis(folder, provider))


def wanted_pack(model: LoadedDiffLoRA | None) -> str:
    """Name the pack that a checkpoint was trained with; without one, that of all checkpoints in models/difflora.

    Raises:
        ValueError: There is no checkpoint, or they were trained with several packs.
    """
    if model is not None:
        return model.difflora.config.encoders.face
    wanted = face_encoders()
    if len(set(wanted.values())) == 1:
        return next(iter(wanted.values()))
    found = ", ".join(f"{name} needs {pack}" for name, pack in wanted.items()) or "there is no checkpoint"
    raise ValueError(
        f"`model_pack` is auto, but in models/difflora {found}: connect Load DiffLoRA to `model`, or choose a pack"
    )


def packs() -> dict[str, Path]:
    """Find model packs: every folder in models/insightface/models that can be read and is not empty, by name."""
    # A pack that is in several places is loaded from the first of them, as ComfyUI does with any model
    roots = (Path(folder) / "models" for folder in reversed(folder_paths.get_folder_paths("insightface")))
    return {
        folder.name: folder
        for root in roots
        if root.is_dir()
        for folder in root.iterdir()
        if folder.is_dir() and os.access(folder, os.R_OK) and any(folder.iterdir())
    }


def providers() -> list[str]:
    """List the short names of the execution providers of the installed onnxruntime, `CPU` first."""
    try:
        import onnxruntime
    except ImportError:
        return ["CPU"]
    available = [name.removesuffix(SUFFIX) for name in onnxruntime.get_available_providers()]
    if "CUDA" not in available and _installed("onnxruntime-gpu") and _installed("onnxruntime"):
        _warn(
            "DiffLoRA: onnxruntime and onnxruntime-gpu have overwritten each other's files; CUDA is missing. Repair: "
            f'"{sys.executable}" -m pip uninstall -y onnxruntime; then '
            f'"{sys.executable}" -m pip install --force-reinstall --no-deps onnxruntime-gpu'
        )
    return ["CPU", *sorted(set(available) - {"CPU"})]


def load_face_analysis(folder: Path, provider: str) -> Any:
    """Load the pack in a folder as InsightFace's prepared `FaceAnalysis`.

    Raises:
        ImportError: InsightFace is not installed.
        FileNotFoundError: The folder contains no models, or contains them one level too deep.
    """
    try:
        return FaceEncoder.open(folder.name, folder.parent.parent, [provider + SUFFIX]).analysis
    except ImportError as error:
        raise ImportError(f"{error}. {how_to_install()}") from error


def how_to_install() -> str:
    """Return the command that installs InsightFace and repairs an onnxruntime variant that it overwrites."""
    pip = f'"{sys.executable}" -m pip'
    variant = next((name for name in RUNTIME_VARIANTS if _installed(name)), None)
    repair = f"; then {pip} uninstall -y onnxruntime; then {pip} install --force-reinstall --no-deps {variant}"
    return (
        "Face analysis needs InsightFace. Install it into ComfyUI's own Python and restart ComfyUI: "
        f"{pip} install insightface{repair if variant else ''}"
    )


@cache
def _warn(message: str) -> None:
    """Log a warning once, not each time that the page loads the choices."""
    logging.warning(message)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
