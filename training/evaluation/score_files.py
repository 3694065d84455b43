"""What was measured, by image, in files: measured again only where an image, a real image, model or code has changed.

<output>/scores/<metric>/<method>/<person>.json    values of each column
<output>/scores/<metric>/metric.json               the metric's columns and description
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from difflora_core.encoders.face_encoder import NoFaceError
from training.lora_dataset.fingerprints import Fingerprint, hash_files, hash_value
from training.lora_dataset.item_names import item_name

from .json_files import read_made_from, write_json
from .metric_list import MetricSource
from .metrics.metric import Better, Description, PersonMetric, PersonSample, Scores

SCORES = "scores"


@dataclass(frozen=True)
class MeasuredSample:
    """A method's images of a person with what they are compared with, as files."""

    method: str
    """The method's name."""
    person: str
    """The person's."""
    images: Sequence[Path]
    """Generated."""
    prompts: Sequence[str]
    """Of each image, with the class word."""
    references: Sequence[Path]
    """Given to the method."""
    others: Sequence[Path]
    """Kept from it."""

    def fingerprint(self) -> Fingerprint:
        """Hash everything that scores depend on, beside the metric's model and code."""
        return {
            "images": hash_files(self.images),
            "prompts": hash_value(list(self.prompts)),
            "references": hash_files(self.references),
            "other images": hash_files(self.others),
        }

    def load(self) -> PersonSample:
        """Hand it to a metric, which reads the files."""
        return PersonSample(list(self.images), self.prompts, list(self.references), list(self.others))


class MetricScores:
    """The scores of one metric, whose model is loaded when something has to be measured."""

    def __init__(self, source: MetricSource, output: Path) -> None:
        self.source, self.folder = source, output / SCORES / item_name(source.key)

    @cached_property
    def metric(self) -> PersonMetric:
        """The metric, loaded.

        Raises:
            FileNotFoundError: A file of its model is missing.
            ValueError: It is damaged.
        """
        return self.source.open()

    @cached_property
    def _inputs(self) -> Fingerprint:
        return self.source.fingerprint()

    @cached_property
    def about(self) -> tuple[Mapping[str, Better], Description]:
        """The metric's columns and description."""
        path, inputs = self.folder / "metric.json", dict(self._inputs)
        if known := read_made_from(path, inputs, {"columns", "description"}):
            return known["columns"], Description(**known["description"])
        columns, description = dict(self.metric.columns), self.metric.description
        write_json(path, {"inputs": inputs, "columns": columns, "description": asdict(description)})
        return columns, description

    def score(self, sample: MeasuredSample) -> Scores:
        """Read a person's scores, or measure them; of a person without a face in any reference they are NaN.

        Raises:
            FileNotFoundError: An image or a file of the model is missing.
            ValueError: An image can't be used, or a score is infinite; both are named.
        """
        path = self.folder / sample.method / f"{sample.person}.json"
        inputs = {**self._inputs, **sample.fingerprint()}
        columns = self.about[0]
        if known := read_made_from(path, inputs, {"scores"}):
            scores = {name: np.array(values, dtype=np.float64) for name, values in known["scores"].items()}
            if scores.keys() == columns.keys():  # None becomes NaN
                return scores
        remark = ""
        try:
            measured = self.metric.score(sample.load())
            _check_not_infinite(measured)
        except NoFaceError as error:  # in none of the references
            measured, remark = {name: np.full(len(sample.images), np.nan) for name in columns}, str(error)
        except ValueError as error:
            raise ValueError(f"{self.source.key}: {sample.method}, {sample.person}: {error}") from error
        rows = {name: [None if np.isnan(x) else float(x) for x in values] for name, values in measured.items()}
        files = [path.name for path in sample.images]
        write_json(path, {"inputs": inputs, "files": files, "remark": remark, "scores": rows})
        return measured


def _check_not_infinite(scores: Scores) -> None:
    """Check what a metric measured before it is written: NaN says that there is no score, infinity is a fault.

    Raises:
        ValueError: A score is infinite; its column is named.
    """
    for name, values in scores.items():
        if infinite := int(np.isinf(values).sum()):
            raise ValueError(f"{infinite} of {len(values)} values of {name} are infinite, expected numbers, or NaN")


def measure_all(
    metrics: Sequence[MetricScores], samples: Sequence[MeasuredSample], on_sample: Callable[[str], None]
) -> dict[str, list[Scores]]:
    """Measure all samples with one metric after another, of which one at a time is in memory.

    Args:
        metrics: The metrics.
        samples: Of all methods and people.
        on_sample: Called after each, with the metric's name.

    Returns:
        For each metric, by its key, the scores of each sample.
    """
    found: dict[str, list[Scores]] = {}
    for metric in metrics:
        found[metric.source.key] = rows = []
        for sample in samples:
            rows.append(metric.score(sample))
            on_sample(metric.source.key)
        metric.__dict__.pop("metric", None)  # frees the model; what was said of it is kept
    return found
