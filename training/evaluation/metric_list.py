"""Metrics by their settings: where their models are, and how they are loaded when something has to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.lora_dataset.fingerprints import Fingerprint, hash_files

from .metrics.clip_similarity import ClipSimilarity
from .metrics.dino_similarity import DinoSimilarity
from .metrics.faces.face_diversity import FaceDiversity
from .metrics.faces.face_search import FaceSearch
from .metrics.faces.face_similarity import FaceSimilarity
from .metrics.image_reward import NEEDED as IMAGE_REWARD_FILES
from .metrics.image_reward import ImageReward
from .metrics.metric import PersonMetric
from .metrics.model_files import WEIGHTS, model_folder
from .metrics.pick_score import PickScore
from .settings import FaceMetricSettings, MetricSettings

READ = ("*.safetensors", "*.bin", "*.pt", "*.onnx", "*.json", "*.txt")
"""Files of a model's folder that metrics read."""
TRANSFORMERS = (("config.json",), WEIGHTS)
CODE = Path(__file__).parent / "metrics"
"""Of all metrics here. Where it has changed, everything is measured again, and nothing of two kinds is compared."""


@dataclass(frozen=True)
class MetricSource:
    """A metric that is not loaded yet."""

    key: str
    """Names it among all; scores are kept under it."""
    open: Callable[[], PersonMetric]
    """Loads it."""
    inputs: Callable[[], Fingerprint]
    """Hashes its model's files; raises FileNotFoundError where one is missing."""
    code: Path = CODE
    """File or folder of its code."""

    def fingerprint(self) -> Fingerprint:
        """Return everything that scores depend on beside images: model and code.

        Raises:
            FileNotFoundError: A file of the model is missing.
        """
        return {"code": hash_code(self.code), **self.inputs()}


def metric_sources(settings: MetricSettings, device: str) -> list[MetricSource]:
    """List the metrics that are to be measured; no model is read.

    Raises:
        ValueError: Two models of one metric have the same name.
    """
    sources = _face_sources(settings.faces, device) if settings.faces is not None else []
    sources += [_source("CLIP", name, ClipSimilarity.open, device) for name in settings.clip]
    if settings.dino is not None:
        sources.append(_source("DINO", settings.dino, DinoSimilarity.open, device))
    if settings.image_reward is not None:
        sources.append(_source("ImageReward", settings.image_reward, ImageReward.open, device, IMAGE_REWARD_FILES))
    if settings.pick_score is not None:
        sources.append(_source("PickScore", settings.pick_score, PickScore.open, device))
    keys = [source.key for source in sources]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ValueError(f"metrics: two models are called {twice!r}, by which scores are kept: rename a folder")
    return sources


def _source(
    kind: str,
    name: str,
    open_metric: Callable[[str, str], PersonMetric],
    device: str,
    needed: Sequence[Sequence[str]] = TRANSFORMERS,
) -> MetricSource:
    return MetricSource(
        f"{kind} {Path(name).name}",
        lambda: open_metric(name, device),
        lambda: {"model": hash_folder(model_folder(name, f"the model of {kind}", needed))},
    )


def _face_sources(settings: FaceMetricSettings, device: str) -> list[MetricSource]:
    @cache
    def search() -> FaceSearch:
        return FaceSearch.open(settings.pack, settings.root, settings.conditioning, device)

    def inputs() -> Fingerprint:
        folder = settings.root / "models" / settings.pack
        if not any(folder.glob("*.onnx")):
            raise FileNotFoundError(f"the face pack of Face Sim is missing: there is no .onnx file in {folder}")
        # With the conditioning packs in it, another one lets the model be loaded again: that compares the packs
        return {"model": hash_folder(folder), "conditioning": list(settings.conditioning)}

    return [
        MetricSource("Face Sim", lambda: FaceSimilarity(search()), inputs),
        MetricSource("face diversity", lambda: FaceDiversity(search()), inputs),
    ]


def hash_code(place: Path) -> str:
    """Hash a file of code, or all of a folder."""
    return hash_files(sorted(place.rglob("*.py")) if place.is_dir() else [place])


def hash_folder(folder: Path) -> str:
    """Hash the files of a model's folder that metrics read."""
    return hash_files(sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()}))


def missing_models(sources: Sequence[MetricSource]) -> list[str]:
    """Say which metrics' models are missing, a line for each."""
    found = []
    for source in sources:
        try:
            source.inputs()
        except (FileNotFoundError, ValueError) as error:
            found.append(str(error))
    return list(dict.fromkeys(found))
