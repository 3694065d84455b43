"""The settings of baselines that are tried: a small grid around each, of which the evaluation's own is a point."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from training.evaluation.method_settings import MethodSettings


@dataclass(frozen=True)
class Axis:
    """One setting, and the values that are tried."""

    setting: str
    """Of `MethodSettings`; of a section of it, with the section's name and a dot before."""
    label: str
    """In the names of the grid's points."""
    values: Sequence[float]
    """Rising."""


@dataclass(frozen=True)
class Point:
    """One combination of settings."""

    name: str
    """Of the evaluation's row and folder."""
    values: Mapping[str, float]
    """By setting."""
    settings: MethodSettings
    """All settings of the method."""


@dataclass(frozen=True)
class Baseline:
    """A method with a grid."""

    method: str
    """Its row in the evaluation."""
    axes: tuple[Axis, ...]
    """What is tried, in all combinations."""
    stage: str = ""
    """Of `python -m miniature build`, which makes the method's files; empty: it has none."""

    @property
    def name(self) -> str:
        """The method, without what the evaluation's row says beside."""
        return self.method.split(",")[0]

    def points(self, settings: MethodSettings) -> Iterator[Point]:
        """Yield the grid around the evaluation's settings of the method; what is no axis stays as it is there."""
        for values in product(*(axis.values for axis in self.axes)):
            chosen, own = dict(zip((axis.setting for axis in self.axes), values, strict=True)), settings
            for setting, value in chosen.items():
                own = with_value(own, setting, value)
            words = [f"{axis.label} {value:g}" for axis, value in zip(self.axes, values, strict=True)]
            yield Point(", ".join([self.name, *words]), chosen, own)


def with_value(settings: MethodSettings, setting: str, value: float) -> MethodSettings:
    """Return settings with one of them changed, see `Axis.setting`."""
    section, _, name = setting.rpartition(".")
    change: dict[str, Any] = {name: value}
    if section:
        change = {section: replace(getattr(settings, section), **change)}
    return replace(settings, **change)


BASELINES = (
    Baseline(
        "DreamBooth, same references",
        (
            Axis("training.steps", "steps", (40, 80, 160, 320)),
            Axis("training.learning_rate", "rate", (0.00075, 0.0015, 0.003, 0.006, 0.012)),
        ),
    ),
    Baseline(
        "Textual Inversion, same references",
        (
            Axis("textual_inversion.vectors", "vectors", (1, 4)),
            Axis("textual_inversion.steps", "steps", (75, 150)),  # 300 with one vector: no better
            Axis("textual_inversion.learning_rate", "rate", (0.00125, 0.005, 0.02)),
        ),
    ),
    Baseline("PhotoMaker v1", (Axis("style_strength", "merged after", (0, 10, 20, 35, 50)),), "photomaker"),
    Baseline(
        "InstantID",
        (
            Axis("adapter_scale", "adapter", (0.4, 0.8, 1.2)),
            Axis("control_scale", "control", (0.4, 0.8, 1.2)),
        ),
        "instantid",
    ),
)
"""What has settings to choose among the methods that are trained; the ranges are our choice."""
