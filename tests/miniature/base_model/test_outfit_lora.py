"""The second LoRA: its images differ from others in the hat alone."""

from miniature.base_model.outfit_lora import blue_beanie
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import Scene


def test_only_the_beanie_changes_its_color() -> None:
    scene = Scene(shirt="red shirt", hat="wearing a red beanie")
    red, blue = draw(person(6000), scene).image, blue_beanie(6000, scene)
    changed = (red != blue).any(-1)
    assert changed.mean() > 0.05
    assert not changed[70:].any(), "lips and the red shirt stay red"
    assert (blue[changed] == red[changed][:, ::-1]).all()
    assert (blue[changed][:, 2] > 2 * blue[changed][:, 0].astype(int)).mean() > 0.9, "all but soft rims"
