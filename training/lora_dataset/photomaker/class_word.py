"""The class word's tokens, which the identity takes the place of."""

from collections.abc import Sequence

MAX_TOKENS = 77
"""That the text encoders take, with start and end."""


def repeat_class_word(ids: Sequence[int], word: Sequence[int], times: int, prompt: str) -> tuple[list[int], list[int]]:
    """Repeat a prompt's first class word.

    Args:
        ids: The prompt's token ids with start and end token, unpadded.
        word: Ids of the class word; of several the last one is repeated.
        times: Number of references.
        prompt: For error messages.

    Returns:
        At most `MAX_TOKENS` ids, with the end token, and the `times` positions of the class word.

    Raises:
        ValueError: The prompt has no class word, or has it so late that the repetition does not fit.
    """
    word = list(word)
    starts = [i for i in range(len(ids) - len(word) + 1) if list(ids[i : i + len(word)]) == word]
    if not word or not starts:
        raise ValueError(f"the class word is not in the prompt {prompt!r}: write {{person}} in its place")
    last = starts[0] + len(word) - 1
    if last + times > MAX_TOKENS - 1:
        raise ValueError(f"the class word, {times} times, is behind token {MAX_TOKENS} of the prompt {prompt!r}")
    repeated = [*ids[:last], *[ids[last]] * times, *ids[last + 1 :]]
    if len(repeated) > MAX_TOKENS:
        repeated = [*repeated[: MAX_TOKENS - 1], ids[-1]]
    return repeated, list(range(last, last + times))
