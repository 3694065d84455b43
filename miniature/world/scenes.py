"""Scenes: everything in an image that is not the person, the caption of a scene, and the scenes that are used again.

The draws of every scene are fixed: shipped weights were trained on these very images, and held-out figures are measured
on them. So seeds are lists that numpy's `SeedSequence` mixes, not `difflora_core.seeds`, and must stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# The empty word is the default of a prompt that says nothing; every other word is written out in the caption.
EXPRESSIONS = ("", "smiling", "laughing", "sad", "surprised")
GAZES = ("", "looking left", "looking right")
POSES = ("", "turned left", "turned right")
LIGHTS = ("", "light from the left", "light from the right")
GLASSES = ("", "wearing glasses")
HATS = ("", "wearing a red beanie", "wearing a straw hat")
SHIRTS = ("white shirt", "black shirt", "red shirt", "green shirt", "blue shirt")
BACKGROUNDS = ("white", "blue", "green", "yellow", "pink", "dark")

CLASS_WORD = "person"
BEANIE = HATS[1]
BLUE_BEANIE = "wearing a blue beanie"
"""What no network is trained on but the second LoRA."""
TEACHER_IMAGES = 16
"""Images of each person that gets a teacher LoRA."""


@dataclass(frozen=True)
class Scene:
    """What an image shows beside the person: attributes that the caption names, and framing that it does not."""

    expression: str = ""
    """One of `EXPRESSIONS`."""
    gaze: str = ""
    """One of `GAZES`."""
    pose: str = ""
    """One of `POSES`, the name of `yaw`."""
    light: str = ""
    """One of `LIGHTS`."""
    glasses: str = ""
    """One of `GLASSES`."""
    hat: str = ""
    """One of `HATS`, or `BLUE_BEANIE`."""
    shirt: str = "white shirt"
    """One of `SHIRTS`."""
    background: str = "blue"
    """One of `BACKGROUNDS`."""
    yaw: float = 0.0
    """Turn of the head to the right of the image, in radians."""
    pitch: float = 0.0
    """Nod of the head in radians."""
    roll: float = 0.0
    """Tilt of the head in radians."""
    scale: float = 1.0
    """Size of the head; 1 is the usual one."""
    shift_x: float = 0.0
    """Pixels to the right, of an image of 128 pixels."""
    shift_y: float = 0.0
    """Pixels down, of an image of 128 pixels."""
    shade: float = 0.5
    """Depth of the light's gradient, 0 to 1."""


def side_of(word: str) -> float:
    """The side of the image in a word of a gaze, pose or light: −1 left, 1 right, 0 neither."""
    return {"left": -1.0, "right": 1.0}.get(word.rpartition(" ")[2], 0.0)


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. Defaults (no glasses, no hat, frontal, even light) are more frequent than each alternative."""

    def choose(words: tuple[str, ...], default_chance: float) -> str:
        if rng.random() < default_chance:
            return words[0]
        return words[1 + int(rng.integers(len(words) - 1))]

    pose = choose(POSES, 0.5)
    return Scene(
        expression=choose(EXPRESSIONS, 0.25),
        gaze=choose(GAZES, 0.5),
        pose=pose,
        light=choose(LIGHTS, 0.5),
        glasses=choose(GLASSES, 0.65),
        hat=choose(HATS, 0.6),
        shirt=SHIRTS[int(rng.integers(len(SHIRTS)))],
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        yaw=side_of(pose) * rng.uniform(0.22, 0.34) + rng.normal(0.0, 0.04),
        pitch=rng.normal(0.0, 0.06),
        roll=rng.normal(0.0, 0.05),
        scale=rng.uniform(0.94, 1.06),
        shift_x=rng.normal(0.0, 2.0),
        shift_y=rng.normal(0.0, 1.5),
        shade=rng.uniform(0.35, 0.65),
    )


def reference_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene for a reference image: like any other, but with nothing worn on the head."""
    return replace(random_scene(rng), hat="", glasses="")


def training_scene(index: int, image: int) -> Scene:
    """The scene of a person's n-th image in the drawn training set."""
    return random_scene(np.random.default_rng([77, index, image]))


def caption(scene: Scene, drop: frozenset[str] = frozenset()) -> str:
    """The class-word prompt of a scene. `drop` may hold "shirt" and "background", which the prompt then leaves out."""
    parts = [f"a portrait of a {CLASS_WORD}"]
    parts += [
        word for word in (scene.expression, scene.gaze, scene.pose, scene.glasses, scene.hat, scene.light) if word
    ]
    if "shirt" not in drop:
        parts.append(scene.shirt)
    if "background" not in drop:
        parts.append(f"{scene.background} background")
    return ", ".join(parts)


TEACHER_SCENES = tuple(random_scene(np.random.default_rng([78, image])) for image in range(TEACHER_IMAGES))
"""The scenes that every person's teacher LoRA is trained on.

With scenes of their own, the LoRAs of two people differed more by scene than by person (PCA with 288 components
explained 12 % of the variance between the LoRAs of validation people).
"""

DEMO_SCENES = (
    Scene(expression="smiling", shirt="blue shirt", background="yellow"),
    Scene(expression="laughing", hat=BEANIE, shirt="white shirt", background="blue"),
    Scene(glasses="wearing glasses", gaze="looking left", shirt="black shirt", background="pink"),
    Scene(expression="surprised", hat="wearing a straw hat", shirt="red shirt", background="green"),
    Scene(expression="sad", light="light from the left", shirt="green shirt", background="dark"),
)
"""The prompts on which held-out people are measured; what they do not name has its default."""

VALIDATION_SCENES = (
    Scene(expression="laughing", shirt="green shirt", background="pink"),
    Scene(glasses="wearing glasses", shirt="red shirt", background="white"),
    Scene(expression="sad", hat="wearing a straw hat", shirt="blue shirt", background="yellow"),
    Scene(gaze="looking right", pose="turned left", shirt="white shirt", background="dark"),
)
"""The prompts on which settings are chosen with validation people: none of the demo's."""

CONTROL_SCENES = (
    Scene(expression="laughing", hat=BEANIE, pose="turned left", yaw=-0.33),
    Scene(expression="surprised", hat=BEANIE, gaze="looking right"),
    Scene(expression="smiling", hat=BEANIE, pose="turned right", yaw=0.33),
    Scene(expression="sad", hat=BEANIE, roll=0.12, shift_x=6.0),
)
"""Scenes of the images whose edges the ControlNet of the examples gets."""
