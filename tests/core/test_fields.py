"""Fields of configuration dataclasses."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Interval, MultipleOf

from difflora_core.fields import (
    Cosine,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    check_fields,
    number_fields,
    read_json_file,
)


@dataclass(frozen=True)
class Settings:
    steps: PositiveInt = 1
    warmup: NonNegativeInt = 0
    rate: PositiveFloat = 0.1
    noise: NonNegativeFloat = 0.0
    blend: Share = 0.5
    threshold: Cosine = -1.0
    seed: Seed = 0
    patience: PositiveInt | None = None
    free: float = 0.0
    size: Annotated[int, Interval(ge=8), MultipleOf(8)] = 16
    name: str = "any"
    mode: Literal["fast", "exact"] = "fast"
    order: Literal["up", "down"] | None = None
    sizes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps: found 0, expected an integer of at least 1"),
        ({"steps": 1.5}, "steps: found 1.5, expected an integer"),
        ({"steps": True}, "steps: found True, expected an integer"),
        ({"steps": "1"}, "steps: found '1', expected an integer"),
        ({"warmup": -1}, "warmup: found -1, expected an integer of at least 0"),
        ({"rate": 0.0}, "rate: found 0.0, expected a finite number above 0"),
        ({"rate": math.nan}, "rate: found nan, expected a finite number above 0"),
        ({"noise": -0.1}, "noise: found -0.1, expected a finite number of at least 0"),
        ({"blend": 1.1}, "blend: found 1.1, expected a finite number of at least 0 and of at most 1"),
        ({"threshold": -2}, "threshold: found -2, expected a finite number of at least -1"),
        (
            {"seed": 2**63},
            "seed: found 9223372036854775808, expected an integer of at least 0 and below 9223372036854775808",
        ),
        ({"patience": 0}, "patience: found 0, expected an integer of at least 1"),
        ({"free": math.inf}, "free: found inf, expected a finite number"),
        ({"size": 20}, "size: found 20, expected an integer of at least 8 and divisible by 8"),
        ({"mode": "slow"}, "mode: found 'slow', expected one of fast, exact"),
        ({"mode": None}, "mode: found None, expected one of fast, exact"),
        ({"order": "left"}, "order: found 'left', expected one of up, down"),
        ({"free": -math.inf}, "free: found -inf, expected a finite number"),
    ],
)
def test_values_outside_their_range_or_choices_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(Settings(), **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"rate": 1},
        {"steps": np.int64(3)},
        {"blend": np.float32(1)},
        {"patience": 2},
        {"order": "up"},
        {"seed": 2**63 - 1},
    ],
)
def test_values_inside_their_range_or_choices_are_accepted(changed):
    replace(Settings(), **changed)


def test_numbers_of_numpy_become_python_s():
    settings = replace(Settings(), steps=np.int64(3), rate=np.float32(0.5), noise=np.float64(0.25), blend=np.int8(1))
    assert [type(value) for value in (settings.steps, settings.rate, settings.noise, settings.blend)] == [
        int,
        float,
        float,
        float,
    ]
    assert (settings.steps, settings.rate, settings.noise, settings.blend) == (3, 0.5, 0.25, 1)


def test_fields_without_a_number_have_no_range():
    assert number_fields(Settings).keys().isdisjoint({"name", "mode", "sizes"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}".encode("utf-16"), r"config\.json is not in UTF-8 \(byte 0\): save it as UTF-8"),
        (b"{", r"config\.json is not JSON"),
        (b"[1]", r"config\.json is \[1\], expected a JSON object"),
    ],
    ids=["PowerShell's", "cut off", "list"],
)
def test_what_is_no_file_of_a_json_object_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json_file(path)
    with pytest.raises(ValueError, match=r"^the layout "):
        read_json_file(path, "the layout")


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "Łukasz"}', "utf-8")
    assert read_json_file(tmp_path / "config.json") == {"name": "Łukasz"}
