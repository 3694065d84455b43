"""FID and KID of all images of a method, and of real images: a method can't be expected to be better than these."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from difflora_core.images import is_image
from difflora_core.seeds import generator_for
from training.lora_dataset.fingerprints import hash_file, hash_files

from .json_files import read_made_from, write_json
from .metric_list import CODE, TRANSFORMERS, hash_code, hash_folder
from .metrics.distributions.dino_features import DinoFeatures
from .metrics.distributions.inception_features import InceptionFeatures
from .metrics.distributions.set_distance import SetDistance, disjoint_sets
from .metrics.metric import Description
from .metrics.model_files import model_folder
from .score_files import SCORES
from .settings import REAL, DistanceSettings, MetricSettings


@dataclass(frozen=True)
class SetScores:
    """Distances of methods to real images."""

    values: Mapping[str, Mapping[str, float]]
    """By method, by column; only methods that have all images."""
    descriptions: Sequence[Description] = ()
    """Of the distances by each network; none if there is nothing to measure."""
    remarks: Sequence[str] = ()
    """What was not measured, and why."""


@dataclass(frozen=True)
class DistanceNetwork:
    """A network by whose features distances are measured, not loaded yet."""

    file: str
    """In which its distances are kept."""
    digest: str
    """Hash of its weights."""
    open: Callable[[Sequence[Path]], SetDistance]
    """Loads it, and measures the real images."""


def check_distances(settings: DistanceSettings) -> None:
    """Check that everything is there.

    Raises:
        FileNotFoundError: The network or the folder of real images is missing.
    """
    if settings.inception is not None and not settings.inception.is_file():
        raise FileNotFoundError(f"the network of FID is missing: there is no file {settings.inception}")
    if not settings.reference.is_dir():
        raise FileNotFoundError(f"there is no folder {settings.reference} of real images for FID")


def distance_networks(metrics: MetricSettings, device: str) -> Iterator[DistanceNetwork]:
    """Yield the networks that the settings name.

    Raises:
        FileNotFoundError: One is missing.
    """
    settings, dino = metrics.distances, metrics.dino
    assert settings is not None
    if (inception := settings.inception) is not None:

        def by_inception(reference: Sequence[Path]) -> SetDistance:
            return SetDistance(InceptionFeatures.open(inception, device), reference, settings.name)

        yield DistanceNetwork("distances.json", hash_file(inception), by_inception)
    if settings.dino:
        assert dino is not None  # the settings have checked it

        def by_dino(reference: Sequence[Path]) -> SetDistance:
            features = DinoFeatures.open(dino, device)
            return SetDistance(features, reference, settings.name, f", {features.dino.name}")

        folder = model_folder(dino, "the model of DINO", TRANSFORMERS)
        yield DistanceNetwork("distances_dino.json", hash_folder(folder), by_dino)


def score_sets(
    metrics: MetricSettings, images: Mapping[str, Sequence[Path]], output: Path, device: str, seed: int
) -> SetScores:
    """Measure all methods against one set of real images, as many as each method has; kept in a file for each network.

    Args:
        metrics: Where networks and real images are; they have distances.
        images: Of each method.
        output: Folder of the evaluation.
        device: Of the networks.
        seed: Of the draw of real images.

    Raises:
        FileNotFoundError: A network or the folder of real images is missing.
        ValueError: An image can't be used.
    """
    settings = metrics.distances
    assert settings is not None
    check_distances(settings)
    size = max(map(len, images.values()))
    complete = {method: list(files) for method, files in images.items() if len(files) == size}
    remarks = [f"FID of {method}: it lacks images of some people" for method in images if method not in complete]
    real = sorted(path for path in settings.reference.rglob("*") if path.is_file() and is_image(path))
    if len(real) < size or size < 2:
        why = f"{settings.reference} has {len(real)} real images, each method {size}: as many are needed, and two"
        return SetScores({}, (), [*remarks, f"FID: {why}"])
    if len(real) >= 2 * size:
        reference, complete[REAL] = disjoint_sets(real, size, generator_for(seed, "real images"))
    else:
        reference = real[:size]
        remarks.append(f"FID of real images: {2 * size} would be needed, {len(real)} are there")
    found = [
        _measure(network, complete, reference, settings.name, output) for network in distance_networks(metrics, device)
    ]
    values = {
        method: {column: value for own, _ in found for column, value in own[method].items()} for method in complete
    }
    return SetScores(values, [about for _, about in found], remarks)


def _measure(
    network: DistanceNetwork,
    images: Mapping[str, Sequence[Path]],
    reference: Sequence[Path],
    name: str,
    output: Path,
) -> tuple[Mapping[str, Mapping[str, float]], Description]:
    """Return the distances of each method by one network, and what they are; what was measured before is read."""
    inputs = {
        "network": network.digest,
        "code": hash_code(CODE),
        "reference": hash_files(reference),
        "name": name,
        "images": {method: hash_files(files) for method, files in images.items()},
    }
    path = output / SCORES / network.file
    if known := read_made_from(path, inputs, {"values", "description"}):
        return known["values"], Description(**known["description"])
    metric = network.open(reference)
    values = {method: dict(metric.score(files)) for method, files in images.items()}
    write_json(path, {"inputs": inputs, "values": values, "description": vars(metric.description)})
    return values, metric.description
