"""Drawn people: who they are, how they are divided, and the words for their looks.

Everything is a pure function of an integer, so no data set is stored: person 17 has the same face on every machine. A
person is 26 continuous traits. The ranges in `SPLITS` are the only place where people are divided, and they never
overlap: of held-out people only their own teachers are trained, to compare with; nothing else is trained on them or
chosen by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAITS: tuple[str, ...] = (
    "skin_lightness",
    "skin_warmth",
    "face_width",
    "jaw_width",
    "chin_length",
    "cheek_color",
    "hair_lightness",
    "hair_redness",
    "hair_length",
    "hair_volume",
    "hair_wave",
    "fringe",
    "eye_size",
    "eye_spacing",
    "eye_slant",
    "eye_color",
    "brow_thickness",
    "brow_slope",
    "nose_length",
    "nose_width",
    "mouth_width",
    "lip_fullness",
    "lip_redness",
    "ear_size",
    "freckles",
    "beard",
)

EYE_COLORS = ("brown", "hazel", "green", "blue", "gray")
"""Words of the trait `eye_color`, from low to high."""

FRECKLES = ("", "freckles")
BEARDS = ("", "stubble", "beard")
"""Words of the traits that are judged in images; "" is none."""

SPLITS: dict[str, range] = {
    "train": range(0, 6000),
    "validation": range(6000, 6100),
    "held_out": range(7000, 7100),
}


@dataclass(frozen=True)
class Person:
    """A drawn person."""

    index: int
    """Number of the person in the world."""
    traits: np.ndarray
    """float64 (26,), each in [-1, 1], in the order of `TRAITS`."""

    def __getitem__(self, trait: str) -> float:
        """The value of a trait by name."""
        return float(self.traits[TRAITS.index(trait)])


def split_people(split: str) -> range:
    """Person indices of a split: "train", "validation" or "held_out".

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    return SPLITS[split]


def person(index: int) -> Person:
    """The person with this index, the same on every machine. Traits are uniform.

    These draws never change: shipped weights and held-out figures depend on them.
    """
    rng = np.random.default_rng([2408, 6740, index])
    traits = rng.uniform(-1.0, 1.0, len(TRAITS))
    return Person(index, traits)


def person_name(index: int) -> str:
    """Name of the person's folders and files."""
    return f"person_{index:05d}"


def _word(value: float, words: tuple[str, ...]) -> str:
    """The word of the bin of [-1, 1] that holds `value`; bins are equally wide, "" means unremarkable."""
    return words[min(int((value + 1.0) / 2.0 * len(words)), len(words) - 1)]


def eye_word(who: Person) -> str:
    """The word for the color of the eyes."""
    return _word(who["eye_color"], EYE_COLORS)


def beard_level(who: Person) -> float:
    """How much beard is drawn: 1 is a full one; none up to the trait's value 0.2, where this is 0."""
    return (who["beard"] - 0.2) / 0.8


def trait_words(who: Person) -> dict[str, str]:
    """The words for freckles and beard; "" where an image shows none."""
    beard = beard_level(who)
    return {"freckles": FRECKLES[who["freckles"] > 0.0], "beard": BEARDS[(beard > 0.0) + (beard > 0.5)]}


def describe(who: Person) -> str:
    """Describe the person's looks in words, for the captions that the image encoder is trained on and nothing else."""
    length = _word(who["hair_length"], ("short", "medium", "long"))
    wave = _word(who["hair_wave"], ("straight", "wavy", "curly"))
    shade = _word(who["hair_lightness"], ("black", "dark", "brown", "light", "blond"))
    red = "red" if who["hair_redness"] > 0.4 and who["hair_lightness"] > -0.6 else shade
    words = [
        f"{length} {wave} {red} hair",
        f"{_word(who['skin_lightness'], ('very dark', 'dark', 'tanned', 'fair', 'pale'))} skin",
        f"{eye_word(who)} eyes",
        f"{_word(who['eye_size'], ('small', '', 'large'))} eyes",
        f"{_word(who['face_width'], ('narrow', '', 'wide'))} face",
        f"{_word(who['jaw_width'], ('pointed', '', 'square'))} chin",
        f"{_word(who['nose_width'], ('narrow', '', 'broad'))} nose",
        f"{_word(who['lip_fullness'], ('thin', '', 'full'))} lips",
        f"{_word(who['brow_thickness'], ('thin', '', 'thick'))} eyebrows",
    ]
    words = [phrase for phrase in words if not phrase.startswith(" ")]
    if who["freckles"] > 0.3:
        words.append("freckles")
    if who["beard"] > 0.3:
        words.append("beard")
    if who["fringe"] > 0.2:
        words.append("a fringe")
    return ", ".join(words)
