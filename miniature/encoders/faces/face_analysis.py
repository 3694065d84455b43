"""The shipped face models through the real `insightface` package."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from insightface.app import FaceAnalysis

from miniature.paths import WEIGHTS

ROOT = WEIGHTS / "insightface"


def load_face_analysis(name: str, root: Path = ROOT) -> FaceAnalysis:
    """Load InsightFace on the shipped weights, for the CPU, with InsightFace's automatic detection sizes.

    Args:
        name: "miniature" (what DiffLoRA is conditioned on) or "measuring" (for evaluation only).
        root: Folder that holds models/NAME.

    Returns:
        A FaceAnalysis that takes BGR images, as always in InsightFace.

    Raises:
        FileNotFoundError: There is no such folder; InsightFace itself would try to download one.
    """
    folder = root / "models" / name
    if not (folder / "detector.onnx").exists():
        raise FileNotFoundError(
            f"no face models in {folder}: expected detector.onnx and recognizer.onnx; run `python -m miniature build`"
        )
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's default, a thread per core, is many times slower on a busy machine
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # The folder itself, not its name: InsightFace prefers a folder of that name in the working directory, such as ours.
    analysis = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"], sess_options=options)
    analysis.prepare(ctx_id=-1)
    return analysis
