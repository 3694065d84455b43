"""What the table of a pilot says, by figures made by hand."""

import pytest

from training.pilot.choice import choose
from training.pilot.grid import TeacherSetting
from training.pilot.pilot_report import PilotReport
from training.pilot.setting_measures import Measures
from training.pilot.setting_run import Outcome


def report(*figures: tuple[float, float], prompts: float | None = None) -> PilotReport:
    """Settings of 100, 200, … steps with likeness and loss, at 0.9 seconds a step; a last one has failed."""
    outcomes = [
        Outcome(TeacherSetting(1e-3, 100 * n, False, 4), 90.0 * n, Measures(likeness, loss, prompts, (likeness,), 0))
        for n, (likeness, loss) in enumerate(figures, start=1)
    ]
    outcomes.append(Outcome(TeacherSetting(1e-1, 100, False, 4), 90.0, None, "1 of 8 trainings ended in NaN"))
    without = Measures(0.1, 0.2, prompts, (0.1,), 0)
    return PilotReport("mine", "CPU", "pack", ["anna"], 4000, without, outcomes, choose(outcomes, without.likeness))


def test_a_row_for_each_setting():
    header, without, first, second, failed, *_ = report((0.4, 0.18), (0.5, 0.16), prompts=0.25).table().splitlines()
    assert header.split("  ")[0] == "learning rate"
    assert without.split()[-4:] == ["0.1000", "0.200", "1.0000", "0.2500"]
    assert first.split() == ["0.001", "100", "attention", "4", "0.4000", "0.800", "0.9000", "0.2500", "90", "100"]
    assert second.endswith("200 <- chosen")
    assert "failed: 1 of 8 trainings ended in NaN" in failed


@pytest.mark.parametrize(("loss", "doubted"), [(0.16, False), (0.17, False), (0.195, True)])
def test_a_choice_that_hardly_lowers_the_held_out_loss_is_doubted(loss, doubted):
    text = report((0.4, 0.16), (0.5, loss)).table()
    assert ("its teachers may repeat their training images" in text) == doubted
    assert not doubted or "lowers the held-out loss by 2.5%, learning rate 0.001, 100 steps" in text
