"""How many people are evaluated."""

import pytest

from miniature.personal.evaluated_people import first_people
from miniature.personal.teachers import teacher_people


def test_the_first_people_are_taken() -> None:
    assert first_people("held_out", 3) == list(teacher_people("held_out"))[:3]


@pytest.mark.parametrize("split", ["held_out", "validation"])
def test_more_people_than_have_teachers_are_refused(split: str) -> None:
    most = len(teacher_people(split))
    assert len(first_people(split, most)) == most
    for people in (0, most + 1):
        with pytest.raises(ValueError, match=f"1 to {most} have teachers"):
            first_people(split, people)
