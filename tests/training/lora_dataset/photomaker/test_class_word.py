"""The class word's tokens are repeated once per reference, and an unusable prompt is refused."""

import pytest

from training.lora_dataset.photomaker.class_word import repeat_class_word


def test_class_word_is_repeated_in_place() -> None:
    assert repeat_class_word([0, 1, 7, 3, 7, 9], [7], 3, "") == ([0, 1, 7, 7, 7, 3, 7, 9], [2, 3, 4])


def test_last_token_of_a_longer_class_word_is_repeated() -> None:
    assert repeat_class_word([0, 6, 7, 3, 9], [6, 7], 2, "") == ([0, 6, 7, 7, 3, 9], [2, 3])


def test_long_prompt_keeps_its_end_token() -> None:
    ids, positions = repeat_class_word([0, 7, *[1] * 75, 9], [7], 4, "")
    assert (len(ids), ids[-1], positions) == (77, 9, [1, 2, 3, 4])


@pytest.mark.parametrize(("ids", "message"), [([0, 1, 9], "not in the prompt 'abc'"), ([0, *[1] * 73, 7, 9], "behind")])
def test_prompt_without_room_for_the_class_word_is_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repeat_class_word(ids, [7], 3, "abc")
