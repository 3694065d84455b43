"""Edges for the Control-LoRA."""

import numpy as np

from miniature.base_model.train_control_lora import edges
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import Scene


def test_edges_follow_the_drawing() -> None:
    image = draw(person(6000), Scene()).image
    flat = np.full_like(image, 128)
    found = edges(np.stack([image, flat]), 0.1, 0.2)
    assert 0.02 < found[0].mean() < 0.2
    assert not found[1].any()
