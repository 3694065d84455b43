"""Face Similarity and Pick Best Candidate on a real ComfyUI."""

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client, PromptError, Result

PERSON, OTHER = 7003, 7004


@pytest.fixture(scope="module")
def images(client: Client) -> dict[str, str]:
    """Two images of a person and one of another, uploaded."""
    rng = np.random.default_rng(5)
    people = {"reference": PERSON, "same": PERSON, "other": OTHER}
    return {
        name: client.upload(Image.fromarray(draw(person(i), reference_scene(rng)).image), f"similarity_{name}.png")
        for name, i in people.items()
    }


def compare(client: Client, reference: str, image: str) -> tuple[Result, ApiPrompt]:
    graph = ApiPrompt({})
    graph.add("Reference", "LoadImage", image=reference).add("Image", "LoadImage", image=image)
    graph.add("Faces", "DiffLoRALoadFaceAnalysis", model_pack="measuring", provider="CPU")
    links = {"references": graph.output("Reference"), "images": graph.output("Image")}
    graph.add("Compare", "DiffLoRAFaceSimilarity", face_analysis=graph.output("Faces"), **links)
    graph.add("Grid", "PreviewImage", images=graph.output("Compare", 2))
    return client.run(graph.prompt), graph


def cosine(client: Client, reference: str, image: str) -> float:
    result, graph = compare(client, reference, image)
    return float(result.outputs[graph.id("Compare")]["text"][0].splitlines()[0].removeprefix("mean "))


def test_same_person_is_more_similar_than_another(client: Client, images: dict[str, str]) -> None:
    same = cosine(client, images["reference"], images["same"])
    other = cosine(client, images["reference"], images["other"])
    assert -1.0 <= other < same <= 1.0
    assert cosine(client, images["reference"], images["reference"]) == pytest.approx(1.0, abs=2e-3)


def test_grid_shows_every_image(client: Client, images: dict[str, str]) -> None:
    result, graph = compare(client, images["reference"], images["same"])
    (grid,) = client.images(result, graph.id("Grid"))
    assert grid.size[0] == 128
    assert grid.size[1] > 128


def test_no_face_counts_as_zero(client: Client, images: dict[str, str], nobody: str) -> None:
    result, graph = compare(client, images["reference"], nobody)
    assert result.outputs[graph.id("Compare")]["text"][0] == "mean 0.000\nimage 1: no face, counts as 0"
    with pytest.raises(PromptError, match=r"no face in any of the 1 reference"):
        compare(client, nobody, images["same"])


def test_best_candidate_is_the_most_similar(client: Client, workflow: ApiPrompt) -> None:
    """Of three candidates of Sample LoRA, the best has the highest cosine."""
    graph = workflow.copy().set("Sample LoRA", settings="custom", candidates=3, samples=1)
    links = {
        "loras": graph.output("Decode LoRA"),
        "images": graph.output("VAE Decode"),
        "references": graph.output("Your picture 1"),
        "face_analysis": graph.output("Load Face Analysis"),
    }
    graph.add("Best", "DiffLoRAPickBest", **links)
    graph.add("Show", "PreviewImage", images=graph.output("Best", 1))
    result = client.run(graph.only("Show", "Save Image").prompt)
    lines = result.outputs[graph.id("Best")]["text"][0].splitlines()
    numbers = [int(line.split()[1].rstrip(":")) for line in lines]
    cosines = [float(line.split()[-1]) for line in lines]
    assert sorted(numbers) == [1, 2, 3]
    assert cosines == sorted(cosines, reverse=True)
    made = client.images(result, graph.id("Save Image"))
    (best,) = client.images(result, graph.id("Show"))
    assert best.tobytes() == made[numbers[0] - 1].tobytes()


def test_lists_of_different_length_are_an_error(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy().set("Sample LoRA", candidates=2)
    links = {
        "loras": graph.output("Decode LoRA"),
        "images": graph.output("Your picture 2"),
        "references": graph.output("Your picture 1"),
        "face_analysis": graph.output("Load Face Analysis"),
    }
    graph.add("Best", "DiffLoRAPickBest", **links)
    graph.add("Show", "PreviewImage", images=graph.output("Best", 1))
    with pytest.raises(PromptError, match=r"found 2 candidates, but images of 1"):
        client.run(graph.only("Show").prompt)
