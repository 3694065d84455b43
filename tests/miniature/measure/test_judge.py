"""The shipped attribute judge on blurred drawings of validation people."""

import numpy as np
import pytest
import torch

from miniature.measure.judge import soften
from miniature.measure.metrics import prompt_fidelity
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import Scene, training_scene

PEOPLE = split_people("validation")[:12]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [training_scene(i, 3) for i in PEOPLE]


@pytest.fixture(scope="module")
def images(scenes) -> list[np.ndarray]:
    return [draw(person(i), scene).image for i, scene in zip(PEOPLE, scenes, strict=True)]


def test_a_soft_image_is_judged_by_its_content(images, scenes):
    clean = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    soft = soften(clean, torch.Generator().manual_seed(1)).permute(0, 2, 3, 1).mul(255).byte().numpy()
    assert prompt_fidelity(list(soft), scenes).mean() > 0.9
