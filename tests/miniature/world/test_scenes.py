"""Scenes and their captions."""

import numpy as np

from miniature.world.scenes import Scene, caption, reference_scene


def test_captions_name_what_is_not_default_and_drop_what_they_should():
    scene = Scene(expression="sad", glasses="wearing glasses", shirt="red shirt", background="pink")
    assert caption(scene) == "a portrait of a person, sad, wearing glasses, red shirt, pink background"
    assert caption(scene, frozenset({"shirt", "background"})) == "a portrait of a person, sad, wearing glasses"


def test_reference_scenes_leave_the_head_free():
    scenes = [reference_scene(np.random.default_rng(i)) for i in range(20)]
    assert not any(s.hat or s.glasses for s in scenes)
