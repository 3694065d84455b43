"""Refine LoRA on a real ComfyUI: it trains the LoRA and does not change the model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from tests.host.interrupting import interrupt_at_step
from tests.host.lora_files import flat, new_files, saved
from training.comfyui_client import Client, PromptError


def with_refine(graph: ApiPrompt, **settings: float) -> ApiPrompt:
    graph = graph.copy()
    links = {
        "model": graph.output("Load Checkpoint", 0),
        "clip": graph.output("Load Checkpoint", 1),
        "vae": graph.output("Load Checkpoint", 2),
        "lora": graph.output("Decode LoRA"),
        "images": graph.output("Pictures 1 to 3"),
    }
    values = {
        "prompt": "a portrait of a person",
        "steps": 12,
        "learning_rate": 5e-3,
        "batch_size": 4,
        "seed": 0,
        "gradient_checkpointing": True,
    }
    graph.add("Refine", "DiffLoRARefine", **{**links, **values, **settings})
    graph.add("Ours", "DiffLoRASave", lora=graph.output("Refine"), format="kohya", folder="output/loras")
    return graph


def refine(client: Client, workflow: ApiPrompt, base: Path, name: str, **settings: float) -> torch.Tensor:
    graph = with_refine(workflow, **settings).set("Ours", filename_prefix=name)
    (path,) = new_files(client, graph, base, name)
    return flat(path)


@pytest.fixture(scope="module")
def refined(client: Client, workflow: ApiPrompt, base: Path) -> torch.Tensor:
    return refine(client, workflow, base, "refined")


def test_zero_learning_rate_changes_nothing(
    client: Client, workflow: ApiPrompt, base: Path, refined: torch.Tensor
) -> None:
    still = refine(client, workflow, base, "still", learning_rate=0.0, steps=1)
    (predicted,) = saved(client, workflow, base, "Decode LoRA", "predicted")
    torch.testing.assert_close(still, flat(predicted))
    assert (refined - still).abs().mean() > 1e-4


def test_refining_increases_the_similarity(client: Client, workflow: ApiPrompt) -> None:
    """Four images before and four after, measured with the other recognizer. Training starts from the average person,
    since the prediction leaves too little to learn from three images."""
    graph = with_refine(workflow, steps=60, learning_rate=1e-2, seed=3).set("Empty Latent Image", batch_size=4)
    graph.set("Sample LoRA", settings="custom", latent_scale=0.0)
    graph.add("Measuring", "DiffLoRALoadFaceAnalysis", model_pack="measuring", provider="CPU")
    links = {
        "references": graph.output("Pictures 1 to 3"),
        "images": graph.output("VAE Decode"),
        "face_analysis": graph.output("Measuring"),
    }
    graph.add("Likeness", "DiffLoRAFaceSimilarity", **links)
    graph.add("Grid", "PreviewImage", images=graph.output("Likeness", 2))

    def likeness(graph: ApiPrompt) -> float:
        text = client.run(graph.only("Grid").prompt).outputs[graph.id("Likeness")]["text"][0]
        return float(text.splitlines()[0].removeprefix("mean "))

    start = likeness(graph)
    assert likeness(graph.set("Your strength", lora=graph.output("Refine"))) > start + 0.05


def test_a_list_of_images_is_one_training(
    client: Client, workflow: ApiPrompt, base: Path, refined: torch.Tensor
) -> None:
    """The same three images from a folder."""
    folder = base / "input" / "for_refining"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy(base / "input" / f"reference_{number}.png", folder)
    graph = workflow.copy().add("Folder", "DiffLoRALoadFolder", image_folder=folder.name, max_images=16)
    listed = with_refine(graph).set("Refine", images=graph.output("Folder")).set("Ours", filename_prefix="listed")
    (path,) = new_files(client, listed, base, "listed")
    torch.testing.assert_close(flat(path), refined)


def test_images_of_several_sizes_are_refused(client: Client, workflow: ApiPrompt, base: Path) -> None:
    folder = base / "input" / "sizes_for_refining"
    folder.mkdir()
    for number, size in enumerate(((128, 128), (128, 96), (128, 128))):
        Image.new("RGB", size, (200, 205, 210)).save(folder / f"{number}.png")
    graph = workflow.copy().add("Folder", "DiffLoRALoadFolder", image_folder=folder.name, max_images=16)
    listed = with_refine(graph).set("Refine", images=graph.output("Folder")).set("Ours", filename_prefix="sizes")
    with pytest.raises(PromptError, match=r"of 2 sizes \(128 × 128, 128 × 96 pixels\)"):
        client.run(listed.only("Ours").prompt)


def test_every_candidate_is_refined_as_it_is_alone(client: Client, workflow: ApiPrompt, base: Path) -> None:
    graph = workflow.copy().set("Sample LoRA", candidates=2, seed=5)
    found = new_files(client, with_refine(graph, steps=2).set("Ours", filename_prefix="both"), base, "both")
    alone = refine(client, graph.set("Sample LoRA", candidates=1, seed=6), base, "second", steps=2)
    assert len(found) == 2
    torch.testing.assert_close(flat(found[1]), alone, rtol=0, atol=2e-4)  # sampled in a batch of two, and alone


def test_loss_curve_is_a_generated(client: Client, workflow: ApiPrompt, refined: torch.Tensor) -> None:
    graph = with_refine(workflow)
    graph.add("Curve", "PreviewImage", images=graph.output("Refine", 1))
    (curve,) = client.images(client.run(graph.only("Curve").prompt), graph.id("Curve"))
    assert curve.size == (500, 300)
    assert (np.abs(np.asarray(curve, np.int16) - (0xC4, 0x55, 0x2D)).sum(-1) < 30).sum() > 300, "the curve is missing"


def test_model_is_not_changed(client: Client, workflow: ApiPrompt, refined: torch.Tensor) -> None:
    plain = workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint"))

    def generated(seed: int) -> Image.Image:
        graph = plain.copy().set("KSampler", seed=seed).only("Save Image")
        return client.images(client.run(graph.prompt), graph.id("Save Image"))[0]

    before = generated(11)
    client.run(with_refine(workflow, seed=8, steps=2).set("Ours", filename_prefix="between").only("Ours").prompt)
    straight_after = generated(12)  # nothing was unloaded in between
    client.free()
    assert generated(11).tobytes() == before.tobytes()
    assert generated(12).tobytes() == straight_after.tobytes()


def test_same_seed_same_lora(client: Client, workflow: ApiPrompt, base: Path, refined: torch.Tensor) -> None:
    client.free()
    torch.testing.assert_close(refine(client, workflow, base, "again"), refined)


@pytest.mark.parametrize("kind", ["move weights", "skip weight wrappers"])
def test_same_lora_in_the_states_of_a_gpu_host(
    client: Client, workflow: ApiPrompt, base: Path, refined: torch.Tensor, kind: str
) -> None:
    """On a GPU the weights leave inference mode when they are moved, and dynamic VRAM loads small modules apart."""
    graph = workflow.copy().add("GPU", "DiffLoRATestLikeOnGPU", model=workflow.output("Load Checkpoint"), kind=kind)
    for time_ in ("first", "second"):
        name = f"{kind.replace(' ', '_')}_{time_}"
        links = with_refine(graph).set("Refine", model=graph.output("GPU")).set("Ours", filename_prefix=name)
        (path,) = new_files(client, links, base, name)
        client.free()  # also of cached results, so that the second time trains again
        torch.testing.assert_close(flat(path), refined)


def test_gradient_checkpointing_gives_the_same_lora(
    client: Client, workflow: ApiPrompt, base: Path, refined: torch.Tensor
) -> None:
    torch.testing.assert_close(
        refine(client, workflow, base, "plain", gradient_checkpointing=False), refined, rtol=1e-4, atol=1e-6
    )


def test_interrupt_stops_training_and_restores_the_model(client: Client, workflow: ApiPrompt) -> None:
    plain = workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint"), seed=11)
    before = client.images(client.run(plain.only("Save Image").prompt), plain.id("Save Image"))[0]
    long = with_refine(workflow, steps=2000, seed=9).set("Ours", filename_prefix="never")
    interrupted = interrupt_at_step(client, long.only("Ours"), "Refine")
    assert interrupted.error == "DiffLoRARefine: interrupted"
    assert 0 < interrupted.last_step < interrupted.steps == 2000
    again = plain.set("Save Image", filename_prefix="after_interrupt").set("KSampler", denoise=0.999999)
    after = client.images(client.run(again.only("Save Image").prompt), again.id("Save Image"))[0]
    assert np.array_equal(np.asarray(before), np.asarray(after))


def test_a_model_with_a_lora_on_one_side_alone_is_refused(client: Client, workflow: ApiPrompt) -> None:
    """Training would leave it out."""
    graph = with_refine(workflow.copy().set("Your strength", side="positive"))
    graph.set("Refine", model=graph.output("Your strength")).set("Ours", filename_prefix="refused")
    with pytest.raises(PromptError, match=r"(?s)DiffLoRARefine: .*set `side` of its Apply LoRA to both"):
        client.run(graph.only("Ours").prompt)
