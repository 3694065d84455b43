"""YAML into dataclasses: every kind of field, and the two places where YAML 1.1 surprises."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from training.engine.settings import read_settings


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    precision: Literal["no", "bf16"] = "bf16"


@dataclass(frozen=True)
class Outer:
    folders: tuple[Path, ...] = ()
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    patience: int | None = 3
    weights: dict[str, float] = field(default_factory=dict)


def read(folder: Path, text: str) -> Outer:
    (folder / "some.yaml").write_text(text, encoding="utf-8")
    return read_settings(Outer, folder / "some.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {rate: 1e-3}", Outer(inner=Inner(rate=1e-3))),
        ("inner: {rate: 2}", Outer(inner=Inner(rate=2.0))),
        ("inner: {precision: no}", Outer(inner=Inner(precision="no"))),
        ("maybe: {rate: 0.5}", Outer(maybe=Inner(rate=0.5))),
        ("patience: null", Outer(patience=None)),
        ("weights: {a: 1, b: 0.5}", Outer(weights={"a": 1.0, "b": 0.5})),
    ],
)
def test_values_become_what_the_field_says(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


def test_lists_of_paths_are_relative_to_the_file(tmp_path):
    assert read(tmp_path, "folders: [a, ../b]").folders == (tmp_path / "a", tmp_path.parent / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folders: a", r"folders is 'a', expected a list"),
        ("folders: [1]", r"folders\[0\] is 1, expected a path"),
        ("weights: {a: much}", r"weights: a is 'much', expected float"),
        ("maybe: 3", "maybe is 3, expected settings by name"),
        ("patience: 1.5", "patience is 1.5, expected int"),
        ("inner: {rate: true}", "rate is True, expected float"),
        ("inner: {precision: fp8}", "'fp8', expected one of no, bf16"),
        ("inner: {speed: 1}", "unknown setting 'speed'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)
