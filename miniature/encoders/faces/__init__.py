"""Faces of the drawn world: a detector and two recognizers, in files that the real `insightface` package loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from miniature.paths import WEIGHTS

if TYPE_CHECKING:
    from insightface.app import FaceAnalysis

ROOT = WEIGHTS / "insightface"


def face_analysis(name: str, root: Path = ROOT, threads: int = 1) -> FaceAnalysis:
    """InsightFace on the shipped weights, prepared for the CPU with InsightFace's automatic detection sizes.

    name: "miniature" (what DiffLoRA is conditioned on) or "measuring" (for evaluation only). threads: of ONNX Runtime;
    its default, one per core, is many times slower on a busy machine. Pictures go in as BGR, as always in InsightFace.
    Raises FileNotFoundError if there is no such folder: the package itself would try to download one.
    """
    import onnxruntime
    from insightface.app import FaceAnalysis

    folder = root / "models" / name
    if not (folder / "detector.onnx").exists():
        raise FileNotFoundError(
            f"no face models in {folder}: expected detector.onnx and recognizer.onnx; run `python -m miniature build`"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The folder itself, not its name: InsightFace prefers a folder of that name in the working directory, such as ours.
    analysis = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"], sess_options=options)
    analysis.prepare(ctx_id=-1)
    return analysis
