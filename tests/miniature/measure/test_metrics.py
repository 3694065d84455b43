"""Face similarity and prompt fidelity of drawings of validation people: right and wrong prompts, blurred images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from miniature.measure.judge import ATTRIBUTES, soften
from miniature.measure.metrics import face_similarity, prompt_fidelity, right_traits, sharpness
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import Scene, reference_scene, training_scene

PEOPLE = split_people("validation")[:12]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [training_scene(i, 3) for i in PEOPLE]


@pytest.fixture(scope="module")
def images(scenes) -> list[np.ndarray]:
    return [draw(person(i), scene).image for i, scene in zip(PEOPLE, scenes, strict=True)]


def test_the_prompt_of_a_drawing_is_seen(images, scenes):
    assert prompt_fidelity(images, scenes).mean() > 0.97


def test_a_soft_image_is_judged_by_its_content(images, scenes):
    clean = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    soft = soften(clean, torch.Generator().manual_seed(1)).permute(0, 2, 3, 1).mul(255).byte().numpy()
    assert prompt_fidelity(list(soft), scenes).mean() > 0.9


def test_a_wrong_word_costs_its_share(images, scenes):
    other = {"blue": "pink"}
    wrong = [replace(s, background=other.get(s.background, "blue")) for s in scenes]
    lost = prompt_fidelity(images, scenes).mean() - prompt_fidelity(images, wrong).mean()
    assert lost == pytest.approx(1 / len(ATTRIBUTES), abs=0.02)


def test_face_similarity_tells_people_apart():
    references = [
        [draw(person(i), reference_scene(np.random.default_rng(k))).image for k in (1, 2)] for i in PEOPLE[:3]
    ]
    table = np.array([[face_similarity([made[1]], of[:1])[0] for of in references] for made in references])
    assert (table.argmax(1) == np.arange(3)).all()
    assert table.diagonal().min() > 0.6


def test_an_image_without_a_face_counts_as_zero():
    wall = np.full((128, 128, 3), 200, dtype=np.uint8)
    reference = draw(person(PEOPLE[0]), Scene()).image
    assert face_similarity([wall], [reference])[0] == 0.0
    with pytest.raises(ValueError, match="none of the 1 reference images"):
        face_similarity([reference], [wall])


def test_drawings_have_the_traits_of_their_person_and_not_of_another():
    people = split_people("validation")[:24]
    images = np.stack([draw(person(index), Scene()).image for index in people])
    own, others = right_traits(images, people), right_traits(images, [*people[1:], people[0]])
    for name in ("eye color", "freckles", "beard"):
        assert own[name].mean() > max(0.7, others[name].mean() + 0.2), name
    assert own["eyes agree"].mean() > 0.9


def test_a_blurred_image_is_less_sharp():
    image = draw(person(6000), Scene()).image
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))
    assert 0 < sharpness(blurred[None]) < 0.5 * sharpness(image[None])
