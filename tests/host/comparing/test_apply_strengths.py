"""Apply LoRA at Several Strengths and Image Grid with Labels on a real ComfyUI."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from miniature.comfyui.api_prompt import ApiPrompt
from training.comfyui_client import Client, PromptError

STRENGTHS = [0.0, 0.5, 1.0]


def with_strengths(workflow: ApiPrompt, strengths: str, side: str = "both", **grid: object) -> ApiPrompt:
    """The workflow with several strengths in place of Apply LoRA, and a grid of the images."""
    graph = workflow.copy()
    links = {"model": graph.output("Load Checkpoint"), "lora": graph.output("Decode LoRA")}
    graph.add("Several", "DiffLoRAApplyStrengths", strengths=strengths, side=side, **links)
    graph.set("KSampler", model=graph.output("Several"))
    inputs = {"images": graph.output("VAE Decode"), "labels": graph.output("Several", 1), "columns": 0} | grid
    graph.add("Grid", "DiffLoRAImageGrid", **inputs)
    return graph.add("Show", "PreviewImage", images=graph.output("Grid"))


@pytest.fixture(scope="module")
def compared(client: Client, workflow: ApiPrompt) -> tuple[list[Image.Image], Image.Image, str]:
    """The images with every strength, the grid, and what the node says."""
    graph = with_strengths(workflow, "0, 0.5, 1")
    result = client.run(graph.only("Save Image", "Show").prompt)
    (grid,) = client.images(result, graph.id("Show"))
    return client.images(result, graph.id("Save Image")), grid, result.outputs[graph.id("Several")]["text"][0]


def test_every_image_is_that_of_apply_lora(
    client: Client, workflow: ApiPrompt, compared: tuple[list[Image.Image], Image.Image, str]
) -> None:
    images, _, text = compared
    for strength, image in zip(STRENGTHS, images, strict=True):
        graph = workflow.copy().set("Your strength", strength=strength).only("Save Image")
        (expected,) = client.images(client.run(graph.prompt), graph.id("Save Image"))
        assert ImageChops.difference(image, expected).getbbox() is None
    assert text.endswith("modules patched: without LoRA, strength 0.5, strength 1")


def test_the_positive_side_is_that_of_apply_lora(client: Client, workflow: ApiPrompt) -> None:
    graph = with_strengths(workflow, "0.5", side="positive").only("Save Image")
    (image,) = client.images(result := client.run(graph.prompt), graph.id("Save Image"))
    assert result.outputs[graph.id("Several")]["text"][0].endswith("modules patched, positive side: strength 0.5")
    graph = workflow.copy().set("Your strength", strength=0.5, side="positive").only("Save Image")
    (expected,) = client.images(client.run(graph.prompt), graph.id("Save Image"))
    assert ImageChops.difference(image, expected).getbbox() is None


def test_grid_holds_the_images_and_readable_labels(compared: tuple[list[Image.Image], Image.Image, str]) -> None:
    images, grid, _ = compared
    width, height = images[0].size
    assert grid.width == 3 * width
    for number, image in enumerate(images):
        cell = grid.crop((number * width, 0, (number + 1) * width, grid.height))
        difference = np.subtract(cell.crop((0, 0, width, height)), image, dtype=float)
        assert abs(difference).max() <= 1, "Save Image cuts off where the grid rounds"
        ink = np.argwhere(np.asarray(cell.convert("L"))[height:] < 128)
        assert np.ptp(ink[:, 0]) >= 8, "letters at least 8 pixels high"
        assert ink[:, 1].min() > 1
        assert ink[:, 1].max() < width - 2, "the label fits below its image"


@pytest.mark.parametrize(("columns", "size"), [(1, (1, 3)), (2, (2, 2)), (32, (3, 1))])
def test_columns(client: Client, workflow: ApiPrompt, columns: int, size: tuple[int, int]) -> None:
    graph = with_strengths(workflow, "0, 0.5, 1", columns=columns).only("Show")
    (grid,) = client.images(client.run(graph.prompt), graph.id("Show"))
    assert (grid.width // 128, grid.height // 128) == size


def test_labels_of_another_number_are_an_error(client: Client, workflow: ApiPrompt) -> None:
    graph = with_strengths(workflow, "0, 0.5, 1")
    graph.add("Text", "PrimitiveStringMultiline", value="a\nb").set("Grid", labels=graph.output("Text"))
    with pytest.raises(PromptError, match=r"found 3 images or batches, but 2 labels"):
        client.run(graph.only("Show").prompt)


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ("0, half", r"`strengths` has 'half'; enter numbers from -10 to 10"),
        ("nan", r"`strengths` has 'nan'"),
        ("11", r"`strengths` has '11'"),
        (" , ", r"`strengths` has 0 numbers; enter 1 to 32"),
        ("1, " * 33, r"`strengths` has 33 numbers"),
        ("0; 1", r"`strengths` has '0; 1'; enter numbers from -10 to 10 with commas between them"),
        ("0,5, 1", r"`strengths` has '0,5', in which a comma may be a decimal one: write decimals with a point"),
        ("0, 0,5, 0.75", r"`strengths` has '0,5', in which a comma"),
    ],
)
def test_impossible_strengths_are_refused_before_any_node_runs(
    client: Client, workflow: ApiPrompt, strengths: str, message: str
) -> None:
    before = client.history()
    with pytest.raises(PromptError, match=message):
        client.run(with_strengths(workflow, strengths).only("Show").prompt)
    assert client.history() == before
