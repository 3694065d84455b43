"""FID and KID of all images of a method, and of real images: a method can't be expected to be better than these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from difflora_core.images import is_image
from difflora_core.seeds import generator_for
from training.lora_dataset.fingerprints import hash_file, hash_files

from .json_files import read_made_from, write_json
from .metrics.distributions.inception_features import InceptionFeatures
from .metrics.distributions.set_distance import SetDistance, disjoint_sets
from .metrics.metric import Description
from .score_files import SCORES
from .settings import DistanceSettings

REAL = "real images"
"""Name of the row in which two sets of real images are compared."""


@dataclass(frozen=True)
class SetScores:
    """Distances of methods to real images."""

    values: Mapping[str, Mapping[str, float]]
    """By method, by column; only methods that have all images."""
    description: Description | None = None
    """Of the metric; None if there is nothing to measure."""
    remarks: Sequence[str] = ()
    """What was not measured, and why."""


def check_distances(settings: DistanceSettings) -> None:
    """Check that everything is there.

    Raises:
        FileNotFoundError: The network or the folder of real images is missing.
    """
    if not settings.inception.is_file():
        raise FileNotFoundError(f"the network of FID is missing: there is no file {settings.inception}")
    if not settings.reference.is_dir():
        raise FileNotFoundError(f"there is no folder {settings.reference} of real images for FID")


def score_sets(
    settings: DistanceSettings, images: Mapping[str, Sequence[Path]], output: Path, device: str, seed: int
) -> SetScores:
    """Measure all methods against one set of real images, as many as each method has; kept in a file.

    Args:
        settings: Where network and real images are.
        images: Of each method.
        output: Folder of the evaluation.
        device: Of the network.
        seed: Of the draw of real images.

    Raises:
        FileNotFoundError: The network or the folder of real images is missing.
        ValueError: An image can't be used.
    """
    check_distances(settings)
    size = max(map(len, images.values()))
    complete = {method: list(files) for method, files in images.items() if len(files) == size}
    remarks = [f"FID of {method}: it lacks images of some people" for method in images if method not in complete]
    real = sorted(path for path in settings.reference.rglob("*") if path.is_file() and is_image(path))
    if len(real) < size or size < 2:
        why = f"{settings.reference} has {len(real)} real images, each method {size}: as many are needed, and two"
        return SetScores({}, None, [*remarks, f"FID: {why}"])
    if len(real) >= 2 * size:
        reference, complete[REAL] = disjoint_sets(real, size, generator_for(seed, "real images"))
    else:
        reference = real[:size]
        remarks.append(f"FID of real images: {2 * size} would be needed, {len(real)} are there")
    inputs = {
        "network": hash_file(settings.inception),
        "reference": hash_files(reference),
        "name": settings.name,
        "images": {method: hash_files(files) for method, files in complete.items()},
    }
    path = output / SCORES / "distances.json"
    if known := read_made_from(path, inputs, {"values", "description"}):
        return SetScores(known["values"], Description(**known["description"]), remarks)
    metric = SetDistance(InceptionFeatures.open(settings.inception, device), reference, settings.name)
    values = {method: dict(metric.score(files)) for method, files in complete.items()}
    write_json(path, {"inputs": inputs, "values": values, "description": vars(metric.description)})
    return SetScores(values, metric.description, remarks)
