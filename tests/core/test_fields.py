"""Fields of configuration dataclasses."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from difflora_core.fields import (
    Cosine,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    check_ranges,
    number_fields,
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
    name: str = "any"
    sizes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_ranges(self)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps is 0, expected an integer of at least 1"),
        ({"steps": 1.5}, "steps is 1.5, expected an integer"),
        ({"steps": True}, "steps is True, expected an integer"),
        ({"steps": "1"}, "steps is '1', expected an integer"),
        ({"warmup": -1}, "warmup is -1, expected an integer of at least 0"),
        ({"rate": 0.0}, "rate is 0.0, expected a finite number above 0"),
        ({"rate": math.nan}, "rate is nan, expected a finite number above 0"),
        ({"noise": -0.1}, "noise is -0.1, expected a finite number of at least 0"),
        ({"blend": 1.1}, "blend is 1.1, expected a finite number of at least 0 and of at most 1"),
        ({"threshold": -2}, "threshold is -2, expected a finite number of at least -1"),
        (
            {"seed": 2**63},
            "seed is 9223372036854775808, expected an integer of at least 0 and below 9223372036854775808",
        ),
        ({"patience": 0}, "patience is 0, expected an integer of at least 1"),
        ({"free": math.inf}, "free is inf, expected a finite number"),
        ({"free": -math.inf}, "free is -inf, expected a finite number"),
    ],
)
def test_numbers_outside_their_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(Settings(), **changed)


@pytest.mark.parametrize(
    "changed", [{"rate": 1}, {"steps": np.int64(3)}, {"blend": np.float32(1)}, {"patience": 2}, {"seed": 2**63 - 1}]
)
def test_numbers_inside_their_range_are_accepted(changed):
    replace(Settings(), **changed)


def test_fields_without_a_number_have_no_range():
    assert number_fields(Settings).keys().isdisjoint({"name", "sizes"})
