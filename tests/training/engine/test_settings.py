"""YAML into dataclasses: every kind of field, and what is refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from training.engine.settings import SettingsPath, read_settings


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    precision: Literal["no", "bf16"] = "bf16"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is above 0, found {self.rate}")


@dataclass(frozen=True)
class Outer:
    folders: tuple[SettingsPath, ...] = ()
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
        ("folders: a", "folders: Input should be a valid array, found 'a'"),
        ("folders: [1]", r"folders.0: Input should be a valid string, found 1"),
        ("weights: {a: much}", "weights.a: Input should be a valid number, found 'much'"),
        ("weights: {a: .nan}", "weights.a: Input should be a finite number"),
        ("maybe: 3", "maybe: Input should be an object, found 3"),
        ("patience: 1.5", "patience: Input should be a valid integer, found 1.5"),
        ("patience: '1'", "patience: Input should be a valid integer, found '1'"),
        ("inner: {rate: true}", "inner.rate: Input should be a valid number, found True"),
        ("inner: {precision: fp8}", "inner.precision: Input should be 'no' or 'bf16', found 'fp8'"),
        ("inner: {speed: 1}", "inner.speed: unknown setting 'speed'; there are precision, rate"),
        ("maybe: {speed: 1}", "maybe.speed: unknown setting 'speed'; there are precision, rate"),
        ("nothing: 1", "nothing: unknown setting 'nothing'; there are folders, inner, maybe, patience, weights"),
        ("patience: 1\npatience: 2", "the key 'patience' stands in line 1 and again in line 2: keep one of them"),
        ("inner: {rate: -1}", "inner: rate is above 0, found -1"),
        ("- patience", "holds a list, expected settings by name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)
