"""The command line and the table of `python -m benchmarks.teacher_count`."""

import pytest

from benchmarks.teacher_count.arguments import read_arguments
from benchmarks.teacher_count.curves import table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--figure curves.png --people 300 1200", "give one value of --people"),
        ("--figure curves.png --lora-penalty 0 0.01 --images 1 2", "give one value of --images, --lora-penalty"),
        ("--figure curves.png --steps 1000 --seeds 0", "leave out --seeds, --steps"),
        ("--figure curves.png --teachers 0", "leave out --teachers"),
        ("--baselines --people 300", "leave out --people"),
        ("--baselines --figure curves.png", "not allowed with argument --baselines"),
    ],
)
def test_options_without_effect_and_pooled_runs_are_refused(
    options: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        read_arguments("", options.split())
    assert message in capsys.readouterr().err


def test_options_have_their_defaults_and_may_have_several_values() -> None:
    found = read_arguments("", ["--people", "300", "1200", "--teachers", "0"])
    assert (found.people, found.teachers, found.seeds, found.steps) == ([300, 1200], [0], (0, 1, 2), 3000)
    found = read_arguments("", ["--figure", "curves.png", "--lora-penalty", "0.01"])
    assert (found.people, found.images, found.lora_penalty) == ((4800,), (6,), [0.01])


def test_the_table_says_that_the_recovery_is_the_best() -> None:
    run = {"teachers": 16, "people": 4800, "images": 6, "steps": 1000, "lora_penalty": 0.0, "seed": 0}
    history = {step: {"teacher_recovery": value} for step, value in (("0", 0.1), ("500", 1.25), ("1000", 1.0))}
    images = {"plain": {"similarity": 0.5, "fidelity": 0.75}}
    head, line = table([{"run": run, "core_seconds": 90, "images": images, "history": history}]).splitlines()
    column = slice(head.index("  best recovery"), head.index("best recovery") + len("best recovery"))
    assert line[column].strip() == "1.250"
