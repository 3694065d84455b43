"""Everything that a report says, in one place."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ..people_folders import EvaluatedPerson
from ..prompt_list import Prompt
from ..results import MethodCost, MetricResult
from ..set_scores import SetScores
from ..settings import EvaluationSettings

PACKAGES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class EvaluationReport:
    """What was evaluated, how, and what was found."""

    settings: EvaluationSettings
    """Of the evaluation."""
    people: Sequence[EvaluatedPerson]
    """Who."""
    prompts: Sequence[Prompt]
    """What was to be shown."""
    placements: Mapping[str, str]
    """By method: where its words stand in prompts."""
    metrics: Sequence[MetricResult]
    """What was found."""
    sets: SetScores
    """FID and KID."""
    costs: Mapping[str, MethodCost]
    """By method."""
    failures: Mapping[str, Mapping[str, str]]
    """By method and person: why the method could not do the person."""
    remarks: Sequence[str]
    """Images that were kept though settings have changed, and the like."""
    device: str
    """On which it was computed."""

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the tables' order."""
        return list(self.placements)

    @property
    def not_measured(self) -> list[str]:
        """What was not measured, and why, a line each."""
        metrics, lines = self.settings.metrics, []
        for name, found in vars(metrics).items():
            if not found:
                lines.append(f"metrics.{name}: not asked for")
        lines += self.sets.remarks
        for method, reasons in self.failures.items():
            lines += [f"{method}, {person}: {reason}" for person, reason in reasons.items()]
        without = [person.name for person in self.people if not person.others]
        if without:
            lines.append(f"likeness to other images of {len(without)} people: they have none")
        return lines


def versions() -> dict[str, str]:
    """Return versions of what computes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
