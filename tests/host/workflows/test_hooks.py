"""LoRAs of the pack in ComfyUI's own hooks: a part of the sampling, a part of the image."""

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.workflows import FOLDER
from training.comfyui_client import Client

SEAM = 32
"""Pixels beside the middle in which the VAE mixes both halves."""


@pytest.fixture(scope="module")
def in_part(client: Client, workflow: ApiPrompt) -> ApiPrompt:
    """The workflow with start and end, on the images of the fixture `workflow`."""
    graph = ApiPrompt.load(FOLDER / "8-Start-and-end-of-the-effect.json", client.object_info())
    for number in (1, 2, 3):
        title = f"Your picture {number}"
        graph.set(title, image=workflow.prompt[workflow.id(title)]["inputs"]["image"])
    return graph


def made(client: Client, graph: ApiPrompt) -> np.ndarray:
    (image,) = client.images(client.run(graph.only("Save Image").prompt), graph.id("Save Image"))
    return np.asarray(image, float)


def between(client: Client, graph: ApiPrompt, start: float, end: float) -> np.ndarray:
    """Let the LoRA act from one share of the sampling to another."""
    changed = graph.copy().set("Your start", start_percent=start).set("Your end", start_percent=end)
    return made(client, changed.set("Before the start", strength_mult=float(start == 0.0)))


def test_the_effect_starts_and_ends(client: Client, in_part: ApiPrompt) -> None:
    plain = in_part.copy().set("KSampler", positive=in_part.output("Your prompt"))
    without = made(client, plain.set("KSampler", negative=in_part.output("Negative prompt")))
    whole = between(client, in_part, 0.0, 1.0)
    patched = in_part.copy().add(
        "Patched",
        "LoraLoaderModelOnly",
        model=in_part.output("Load Checkpoint"),
        lora_name=in_part.output("Save LoRA"),
        strength_model=1.0,
    )
    patched.set("KSampler", model=patched.output("Patched"), positive=in_part.output("Your prompt"))
    assert np.abs(made(client, patched.set("KSampler", negative=in_part.output("Negative prompt"))) - whole).max() <= 1
    late, early = between(client, in_part, 0.5, 1.0), between(client, in_part, 0.0, 0.5)
    never = between(client, in_part, 0.999, 1.0)
    assert np.abs(never - without).max() <= 1
    distances = [np.abs(image - without).mean() for image in (never, late, whole)]
    assert distances == sorted(distances)
    for image in (late, early):
        assert min(np.abs(image - other).mean() for other in (without, whole)) > 1


def test_each_lora_acts_in_its_half_alone(client: Client, workflow: ApiPrompt, two_people: str) -> None:
    graph = ApiPrompt.load(FOLDER / "9-Two-people-in-one-picture.json", client.object_info())
    graph.set("Your picture left", image=workflow.prompt[workflow.id("Your picture 1")]["inputs"]["image"])
    graph.set("Your picture right", image=two_people)
    both = made(client, graph)
    assert Image.fromarray(both.astype(np.uint8)).size == (256, 128)
    for strength, side in (("Your strength right", slice(128, None)), ("Your strength left", slice(None, 128))):
        difference = np.abs(both - made(client, graph.copy().set(strength, strength_model=0.0)))
        other = slice(None, 128 - SEAM) if side.start else slice(128 + SEAM, None)
        assert difference[:, side].mean() > 3
        assert difference[:, other].mean() < 0.01 * difference[:, side].mean()
