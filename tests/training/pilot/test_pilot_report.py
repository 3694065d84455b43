"""What the table of a pilot says, by figures made by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from difflora_core.images import write_image
from tests.training.pilot.tiny_pilot import prepared_dataset
from training.pilot.choice import choose
from training.pilot.grid import TeacherSetting
from training.pilot.pilot_report import PilotReport
from training.pilot.setting_measures import Measures
from training.pilot.setting_run import WITHOUT, Outcome
from training.pilot.settings_sheet import CELL, image_column


def report(*figures: tuple[float, float], prompts: float | None = None) -> PilotReport:
    """Settings of 100, 200, … steps with likeness and loss, at 0.9 seconds a step; a last one has failed."""
    outcomes = [
        Outcome(TeacherSetting(1e-3, 100 * n, False, 4), 90.0 * n, Measures(likeness, loss, prompts, (likeness,), 0))
        for n, (likeness, loss) in enumerate(figures, start=1)
    ]
    outcomes.append(Outcome(TeacherSetting(1e-1, 100, False, 4), 90.0, None, "1 of 8 trainings ended in NaN"))
    without = Measures(0.1, 0.2, prompts, (0.1,), 0)
    return PilotReport("mine", "CPU", "pack", ["anna"], 4000, without, outcomes, choose(outcomes, without))


def test_a_row_for_each_setting():
    header, without, first, second, failed, *_ = report((0.4, 0.18), (0.5, 0.16), prompts=0.25).table().splitlines()
    assert header.split("  ")[0] == "learning rate"
    assert without.split()[-6:] == ["0.1000", "0.4000", "±", "0.0000", "1.0000", "0.2500"]
    measured = ["0.4000", "0.1000", "±", "0.0000", "0.9000", "0.2500"]
    assert first.split() == ["0.001", "100", "attention", "4", *measured, "90", "100"]
    assert second.endswith("200 <- chosen")
    assert "failed: 1 of 8 trainings ended in NaN" in failed


def test_settings_that_are_no_candidates_are_marked():
    text = report((0.4, 0.16), (0.5, 0.185)).table()
    (line,) = (line for line in text.splitlines() if line.endswith("(passed over)"))
    assert line.split()[:2] == ["0.001", "200"]
    assert "passed over: these lower the held-out loss less than 0.5 times as much" in text


@pytest.mark.parametrize(("losses", "doubted"), [((0.16, 0.17), False), ((0.21, 0.205), True)])
def test_a_choice_by_likeness_alone_is_doubted(losses, doubted):
    text = report((0.4, losses[0]), (0.5, losses[1])).table()
    assert ("no setting lowers the held-out loss" in text) == doubted
    assert "passed over" not in text


def test_the_sheet_has_room_for_many_people(tmp_path):
    """A column of sixteen people is narrower than any photo that is read."""
    people = [f"person_{number:02d}" for number in range(16)]
    config = prepared_dataset(tmp_path, dict.fromkeys(people, (0.9, 0.2, 0.1)))
    found = replace(report((0.4, 0.16)), people=people)
    column = image_column([Image.new("RGB", (CELL, CELL))] * len(people))
    for name in (WITHOUT, found.choice.chosen.name):
        write_image(tmp_path / f"{name}.png", column)
    found.write(SimpleNamespace(folder=tmp_path, measurer=SimpleNamespace(config=config, people=people)), tmp_path)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > column.height
