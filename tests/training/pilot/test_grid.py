"""Which settings a pilot tries."""

import pytest

from training.dreambooth.config import DreamBoothConfig
from training.pilot.grid import TeacherSetting, make_grid

SDXL = DreamBoothConfig(rank=4, steps=400, learning_rate=1e-3, warmup=20)


def test_defaults_are_derived_from_the_settings():
    grid = make_grid(SDXL)
    assert sorted({setting.learning_rate for setting in grid}) == [1e-4, 3e-4, 1e-3]
    assert sorted({setting.steps for setting in grid}) == [100, 200, 400]
    assert {setting.rank for setting in grid} == {4, 8}
    assert len(grid) == len(set(grid)) == 3 * 3 * 2 * 2
    assert TeacherSetting.of(SDXL) in grid


def test_the_cheap_ones_come_first_and_nothing_twice():
    grid = make_grid(SDXL, [1e-3, 1e-3], [50, 30], (True,), [2])
    assert [setting.steps for setting in grid] == [30, 50]
    assert len({setting.name for setting in make_grid(SDXL)}) == len(make_grid(SDXL))


def test_short_defaults_leave_out_what_ends_in_the_warm_up():
    config = DreamBoothConfig(steps=24, warmup=20)
    assert {setting.steps for setting in make_grid(config)} == {24}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": []}, "the grid is empty"),
        ({"steps": [20]}, "20 steps end within the warm-up of 20"),
        ({"ranks": [0]}, "rank"),
        ({"learning_rates": [float("nan")]}, "learning_rate"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ValueError, match=message):
        make_grid(SDXL, **values)


def test_a_setting_changes_nothing_else():
    setting = TeacherSetting(5e-4, 100, True, 8)
    changed = setting.applied(SDXL)
    assert (changed.learning_rate, changed.steps, changed.feed_forward, changed.rank) == (5e-4, 100, True, 8)
    assert setting.applied(DreamBoothConfig(warmup=7)).warmup == 7
