"""The shipped files without ComfyUI: size, whose teachers they are, and LoRAs of people who were never trained on."""

import numpy as np
import pytest
import torch

from difflora_core.model import DiffLoRA
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.model import Tokenizer
from miniature.base_model.sampling import generate_images
from miniature.comfyui.host import find_tokenizer
from miniature.measure.metrics import face_similarity, prompt_fidelity
from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS
from miniature.personal.held_out_teachers import HeldOutTeachers
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import Scene, reference_scene

SCENES = (Scene(expression="smiling", background="blue"), Scene(hat="wearing a straw hat", shirt="red shirt"))
PEOPLE = split_people("held_out")[:4]


def test_all_weights_together_fit():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 60e6


def test_teachers_are_of_the_people_they_should_be_of():
    held_out = HeldOutTeachers.load()
    assert set(held_out.people) <= set(split_people("held_out"))
    assert len(held_out.people) == 25
    assert DiffLoRA.load(DIFFLORA_CHECKPOINT).config.provenance["people"] >= 1000


def references(index: int) -> list[np.ndarray]:
    rng = np.random.default_rng(index)
    return [draw(person(index), reference_scene(rng)).image for _ in range(3)]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    """Images (people, scenes, height, width, 3) of the base model, and with the LoRA of `personalize`."""
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    loras = torch.stack([model.personalize(references(index)).flat for index in PEOPLE])
    base, vae = load_checkpoint(WEIGHTS)
    tokenizer = Tokenizer(find_tokenizer())
    return {
        name: generate_images(base, vae, tokenizer, flat, SCENES)
        for name, flat in (("none", torch.zeros_like(loras)), ("difflora", loras))
    }


def test_lora_shows_the_person(images):
    similarity = {
        name: np.mean([face_similarity(list(row), references(i)) for i, row in zip(PEOPLE, rows, strict=True)])
        for name, rows in images.items()
    }
    assert similarity["difflora"] > similarity["none"] + 0.5


def test_lora_leaves_the_prompt_alone(images):
    fidelity = {name: np.mean([prompt_fidelity(list(row), SCENES) for row in rows]) for name, rows in images.items()}
    assert fidelity["difflora"] > 0.9
    assert fidelity["difflora"] > fidelity["none"] - 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_makes_nearly_the_same_lora(dtype):
    flat = {
        kind: DiffLoRA.load(DIFFLORA_CHECKPOINT, dtype=kind).personalize(references(PEOPLE[0])).flat
        for kind in (torch.float32, dtype)
    }
    mean = DiffLoRA.load(DIFFLORA_CHECKPOINT).lae.mean
    cosine = torch.nn.functional.cosine_similarity(flat[dtype] - mean, flat[torch.float32] - mean, dim=0)
    assert flat[dtype].dtype == torch.float32
    assert cosine > 0.98
