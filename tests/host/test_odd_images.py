"""Unusual images on a real ComfyUI: usable ones are used, others are errors that name them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client, PromptError

PERSON = 7000
"""Whom the fixture `workflow` shows."""


def with_odd(workflow: ApiPrompt, kind: str) -> ApiPrompt:
    """Return the workflow with one reference, changed by the tests' own node."""
    graph = workflow.copy()
    graph.add("Odd", "DiffLoRATestOddImage", image=graph.output("Your picture 1"), kind=kind)
    graph.set("Encode Face", image=graph.output("Odd")).set("Mix Features", mode="face")
    return graph.add("Crops", "PreviewImage", images=graph.output("Encode Face", 1))


def crop(client: Client, graph: ApiPrompt) -> Image.Image:
    return client.images(client.run(graph.only("Crops").prompt), graph.id("Crops"))[0]


def test_alpha_is_ignored(client: Client, workflow: ApiPrompt) -> None:
    plain = with_odd(workflow, "alpha").set("Encode Face", image=workflow.output("Your picture 1"))
    assert crop(client, with_odd(workflow, "alpha")).tobytes() == crop(client, plain).tobytes()


def test_grey_is_read_as_a_grey_image(client: Client, workflow: ApiPrompt) -> None:
    graph = with_odd(workflow, "grey").set("Encode Face", aligned=True)  # the miniature's detector needs color
    red, green, blue = crop(client, graph).split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()


def test_a_huge_image_works_and_is_shown_smaller(client: Client, workflow: ApiPrompt) -> None:
    graph = with_odd(workflow, "huge").set("Encode Face", aligned=True)
    result = client.run(graph.only("Crops").prompt)
    (shown,) = client.images(result, graph.id("Encode Face"))
    assert max(shown.size) == 1024


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two channels", r"Images are floats \(images, height, width, 3\).*found \(1, 128, 128, 2\)"),
        ("no image", r"Images are .* with at least one image, found \(0, 128, 128, 3\)"),
        ("one pixel", r"Found no face in image 1 of 1 \(1 × 1 pixels\)"),
        ("NaN", r"image 2 of 2 holds NaN"),
    ],
)
def test_unusable_images_are_errors(client: Client, workflow: ApiPrompt, kind: str, message: str) -> None:
    with pytest.raises(PromptError, match=rf"DiffLoRAEncodeFace: {message}"):
        client.run(with_odd(workflow, kind).only("Save LoRA").prompt)


def test_a_pixel_is_no_aligned_face(client: Client, workflow: ApiPrompt) -> None:
    with pytest.raises(PromptError, match=r"1 × 1 pixels: an aligned face needs at least 32"):
        crop(client, with_odd(workflow, "one pixel").set("Encode Face", aligned=True))


def test_a_photograph_that_is_said_to_be_aligned_is_named(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy().set("Encode Face", aligned=True)
    remarks = client.run(graph.only("Save LoRA").prompt).outputs[graph.id("Encode Face")]["text"]
    assert len([remark for remark in remarks if "is no aligned face: " in remark]) == 3


def shown_by_encode_face(client: Client, workflow: ApiPrompt, third: int) -> dict[str, Any]:
    """Run the example with a third reference of this person; it is new, so that nothing comes from the cache."""
    image = Image.fromarray(draw(person(third), reference_scene(np.random.default_rng(4))).image)
    graph = workflow.copy().set("Your picture 3", image=client.upload(image, f"third_{third}.png"))
    return client.run(graph.only("Save LoRA").prompt).outputs[graph.id("Encode Face")]


def test_somebody_else_among_the_references_is_named(client: Client, workflow: ApiPrompt) -> None:
    shown = shown_by_encode_face(client, workflow, PERSON + 1)
    (remark,) = shown["text"]
    assert remark.startswith("image 3 of 3 looks like somebody else")
    assert len(shown["images"]) == 3


def test_one_person_s_references_need_no_remark(client: Client, workflow: ApiPrompt) -> None:
    assert set(shown_by_encode_face(client, workflow, PERSON)) == {"images", "animated"}


@pytest.mark.parametrize("kind", ["NaN", "no image"])
def test_refine_does_not_train_on_them(client: Client, workflow: ApiPrompt, kind: str) -> None:
    graph = workflow.copy().add("Odd", "DiffLoRATestOddImage", image=workflow.output("Your picture 1"), kind=kind)
    base = {name: graph.output("Load Checkpoint", slot) for slot, name in enumerate(("model", "clip", "vae"))}
    settings = {"prompt": "a portrait of a person", "steps": 2, "learning_rate": 1e-3, "batch_size": 1, "seed": 0}
    settings["gradient_checkpointing"] = False
    lora, images = workflow.output("Decode LoRA"), graph.output("Odd")
    graph.add("Refine", "DiffLoRARefine", **base, lora=lora, images=images, **settings)
    graph.add("Curve", "PreviewImage", images=graph.output("Refine", 1))
    with pytest.raises(PromptError, match=r"DiffLoRARefine: .*(holds NaN|at least one image)"):
        client.run(graph.only("Curve").prompt)


def test_similarity_of_an_empty_batch_is_an_error(client: Client, workflow: ApiPrompt) -> None:
    graph = with_odd(workflow, "no image")
    faces, person = graph.output("Load Face Analysis"), graph.output("Your picture 1")
    graph.add("Compare", "DiffLoRAFaceSimilarity", references=person, images=graph.output("Odd"), face_analysis=faces)
    graph.add("Grid", "PreviewImage", images=graph.output("Compare", 2))
    with pytest.raises(PromptError, match=r"DiffLoRAFaceSimilarity: .*at least one image"):
        client.run(graph.only("Grid").prompt)


def test_image_features_of_another_width(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy().add("Other", "DiffLoRATestOtherVision", width=1280)
    graph.set("Mix Features", clip_vision_output=graph.output("Other"))
    with pytest.raises(PromptError, match=r"DiffLoRAMixFeatures: The image embedding has width 1280.*trained with"):
        client.run(graph.only("Save LoRA").prompt)


def test_a_list_of_images_of_any_sizes_is_one_person(client: Client, workflow: ApiPrompt) -> None:
    rng, sizes = np.random.default_rng(5), {(128, 128), (128, 176), (208, 128)}
    for width, height in sizes:
        image = Image.new("RGB", (width, height), (200, 205, 210))
        image.paste(Image.fromarray(draw(person(PERSON), reference_scene(rng)).image))
        client.upload(image, f"{width}_{height}.png", folder="one_person")
    graph = workflow.copy().add("Folder", "LoadImageDataSetFromFolder", folder="one_person")
    images, faces = graph.output("Folder"), graph.output("Load Face Analysis")
    graph.set("Encode Face", image=images)
    made = graph.output("VAE Decode")
    graph.add("Compare", "DiffLoRAFaceSimilarity", references=images, images=images, face_analysis=faces)
    graph.add("Grid", "PreviewImage", images=graph.output("Compare", 2)).add("Made", "PreviewImage", images=made)
    result = client.run(graph.only("Grid", "Made").prompt)
    assert {image.size for image in client.images(result, graph.id("Encode Face"))} == sizes
    assert "text" not in result.outputs[graph.id("Encode Face")]
    assert len(client.images(result, graph.id("Made"))) == 1  # one LoRA, not one of each image
    assert client.images(result, graph.id("Grid"))[0].width == 3 * 208


def test_image_features_are_those_of_clip_vision_encode(client: Client, workflow: ApiPrompt) -> None:
    def image(graph: ApiPrompt) -> np.ndarray:
        return np.asarray(client.images(client.run(graph.only("Save Image").prompt), graph.id("Save Image"))[0], float)

    links = {"clip_vision": workflow.output("Load CLIP Vision"), "image": workflow.output("Pictures 1 to 3")}
    graph = workflow.copy().add("Core", "CLIPVisionEncode", crop="center", **links)
    graph.set("Mix Features", clip_vision_output=graph.output("Core"))
    assert np.abs(image(graph) - image(workflow)).max() <= 2, "one image at a time rounds otherwise than a batch"


def test_boxes_have_the_number_of_their_face(client: Client, workflow: ApiPrompt, two_people: str) -> None:
    """The number of the chosen face has a colored ground, and moves with the order."""
    graph = workflow.copy().set("Your picture 1", image=two_people)
    # The host shows no image of a node that an earlier prompt has run: no other test's graph has this node
    graph.add("Same", "RepeatImageBatch", image=graph.output("Your picture 1"), amount=1)
    graph.set("Encode Face", image=graph.output("Same"), index=1)

    def colored(choose: str) -> float:
        """Mean place, from left to right, of the pixels in the color of the chosen face."""
        chosen = graph.copy().set("Encode Face", choose=choose)
        chosen.add("Crops", "PreviewImage", images=chosen.output("Encode Face", 1))
        shown = np.asarray(client.images(client.run(chosen.only("Crops").prompt), chosen.id("Encode Face"))[0], int)
        return float((np.abs(shown - (196, 85, 45)).max(-1) < 8).nonzero()[1].mean())

    assert colored("largest") < 120 < colored("left to right")


def test_several_people_s_faces_are_no_list_of_references(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy().add("Two", "DiffLoRATestTwice", value=workflow.output("Encode Face"))
    graph.set("Mix Features", face=graph.output("Two"))
    with pytest.raises(PromptError, match=r"DiffLoRAMixFeatures: `face` takes one value, found a list of 2"):
        client.run(graph.only("Save LoRA").prompt)
