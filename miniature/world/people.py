"""Drawn people: who they are (traits), how a picture of them is taken (scene), and the words for both.

Everything is a pure function of an integer or of a `numpy.random.Generator`, so no data set is stored: person 17 has
the same face on every machine. A person is 26 continuous traits; a scene is everything the prompt may name, plus small
unnamed nuisances (framing, tilt). The ranges in `SPLITS` are the only place where people are divided, and they never
overlap: a held-out person is never drawn by any stage that trains or chooses anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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

SPLITS: dict[str, range] = {
    "train": range(0, 6000),
    "validation": range(6000, 6100),
    "held_out": range(7000, 7100),
}

# The empty word is the default a prompt gets when it says nothing; every other word is written out in the caption.
EXPRESSIONS = ("", "smiling", "laughing", "sad", "surprised")
GAZES = ("", "looking left", "looking right")
POSES = ("", "turned left", "turned right")
LIGHTS = ("", "light from the left", "light from the right")
GLASSES = ("", "wearing glasses")
HATS = ("", "wearing a red beanie", "wearing a straw hat")
SHIRTS = ("white shirt", "black shirt", "red shirt", "green shirt", "blue shirt")
BACKGROUNDS = ("white", "blue", "green", "yellow", "pink", "dark")

CLASS_WORD = "person"


@dataclass(frozen=True)
class Person:
    """A drawn person.

    index: number of the person in the world. traits: float64 (26,), each in [-1, 1], ordered as `TRAITS`.
    """

    index: int
    traits: np.ndarray

    def __getitem__(self, trait: str) -> float:
        return float(self.traits[TRAITS.index(trait)])


@dataclass(frozen=True)
class Scene:
    """One picture's circumstances. The words are entries of the tuples above; the numbers are unnamed nuisances.

    yaw, pitch, roll: radians of the head. scale: 1 = head as large as usual. shift_x, shift_y: pixels of a 128-pixel
    picture. shade: depth of the light's gradient, 0 to 1.
    """

    expression: str = ""
    gaze: str = ""
    pose: str = ""
    light: str = ""
    glasses: str = ""
    hat: str = ""
    shirt: str = "white shirt"
    background: str = "blue"
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    shade: float = 0.5


def split_people(split: str) -> range:
    """Person indices of a split: "train", "validation" or "held_out"."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    return SPLITS[split]


def person(index: int) -> Person:
    """The person with this index, the same on every machine. Traits are uniform."""
    rng = np.random.default_rng([2408, 6740, index])
    traits = rng.uniform(-1.0, 1.0, len(TRAITS))
    return Person(index, traits)


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. Defaults (no glasses, no hat, frontal, even light) are more frequent than each alternative."""

    def choose(words: tuple[str, ...], default: float) -> str:
        if rng.random() < default:
            return words[0]
        return words[1 + int(rng.integers(len(words) - 1))]

    pose = choose(POSES, 0.5)
    turn = {"": 0.0, "turned left": -1.0, "turned right": 1.0}[pose]
    return Scene(
        expression=choose(EXPRESSIONS, 0.25),
        gaze=choose(GAZES, 0.5),
        pose=pose,
        light=choose(LIGHTS, 0.5),
        glasses=choose(GLASSES, 0.65),
        hat=choose(HATS, 0.6),
        shirt=SHIRTS[int(rng.integers(len(SHIRTS)))],
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        yaw=turn * rng.uniform(0.25, 0.4) + rng.normal(0.0, 0.04),
        pitch=rng.normal(0.0, 0.06),
        roll=rng.normal(0.0, 0.05),
        scale=rng.uniform(0.94, 1.06),
        shift_x=rng.normal(0.0, 2.0),
        shift_y=rng.normal(0.0, 1.5),
        shade=rng.uniform(0.35, 0.65),
    )


def reference_scene(rng: np.random.Generator) -> Scene:
    """A scene for a reference picture: as any other, but with nothing worn on the head."""
    return replace(random_scene(rng), hat="", glasses="")


def caption(scene: Scene, drop: frozenset[str] = frozenset()) -> str:
    """The class-word prompt of a scene. `drop` may hold "shirt" and "background": then the prompt leaves them open."""
    parts = [f"a portrait of a {CLASS_WORD}"]
    parts += [
        word for word in (scene.expression, scene.gaze, scene.pose, scene.glasses, scene.hat, scene.light) if word
    ]
    if "shirt" not in drop:
        parts.append(scene.shirt)
    if "background" not in drop:
        parts.append(f"{scene.background} background")
    return ", ".join(parts)


def _word(value: float, words: tuple[str, ...]) -> str:
    """The word of the bin of [-1, 1] that holds `value`; bins are equally wide, "" means unremarkable."""
    return words[min(int((value + 1.0) / 2.0 * len(words)), len(words) - 1)]


def describe(who: Person) -> str:
    """What a caption writer would say about the person's looks, for the image encoder's captions only."""
    length = _word(who["hair_length"], ("short", "medium", "long"))
    wave = _word(who["hair_wave"], ("straight", "wavy", "curly"))
    shade = _word(who["hair_lightness"], ("black", "dark", "brown", "light", "blond"))
    red = "red" if who["hair_redness"] > 0.4 and who["hair_lightness"] > -0.6 else shade
    words = [
        f"{length} {wave} {red} hair",
        f"{_word(who['skin_lightness'], ('very dark', 'dark', 'tanned', 'fair', 'pale'))} skin",
        f"{_word(who['eye_color'], ('brown', 'hazel', 'green', 'blue', 'grey'))} eyes",
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
