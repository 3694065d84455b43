"""The whole pipeline on a real ComfyUI: from reference images to a LoRA to images with it."""

import re
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image, ImageChops

from difflora_core.lora.file_formats import read_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import WEIGHTS
from tests.host.core_nodes import add_core
from tests.host.interrupting import interrupt_at_step
from tests.host.lora_files import files_named
from training.comfyui_client import Client, Prompt

CHECKPOINT = WEIGHTS / "difflora" / "miniature.safetensors"


def generated(client: Client, graph: ApiPrompt) -> Image.Image:
    result = client.run(graph.only("Save Image").prompt)
    return client.images(result, graph.id("Save Image"))[0]


def identical(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a, b).getbbox() is None


def with_core_loader(graph: ApiPrompt, lora: str) -> ApiPrompt:
    model = graph.output("Load Checkpoint")
    graph = graph.copy().add("Core", "LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)
    return graph.set("KSampler", model=graph.output("Core"))


@pytest.fixture(scope="module")
def portrait(client: Client, workflow: ApiPrompt) -> Image.Image:
    """The image of the unchanged workflow."""
    return generated(client, workflow)


@pytest.fixture(scope="module")
def saved(client: Client, workflow: ApiPrompt, base: Path) -> Path:
    """The LoRA of the workflow, as a file."""
    client.run(workflow.copy().set("Save LoRA", filename_prefix="portrait").only("Save LoRA").prompt)
    (path,) = files_named(base, "portrait")
    return path


def test_memory_is_freed(client: Client, workflow: ApiPrompt) -> None:
    """After POST /free the networks are not on the device and not referenced."""

    def memory(call: int) -> str:
        graph = ApiPrompt({}).add("Memory", "DiffLoRATestMemory", call=call)
        return client.run(graph.prompt).outputs[graph.id("Memory")]["text"][0]

    client.free()
    client.run(workflow.copy().set("Sample LoRA", seed=1234).only("Save LoRA").prompt)
    assert memory(1) == "1 loaded, 1 alive"
    client.free()
    assert memory(2) == "0 loaded, 0 alive"


def test_workflow_runs_as_shipped(client: Client, workflow: ApiPrompt) -> None:
    client.free()  # nodes with cached results do not show their text again
    result = client.run(workflow.prompt)
    text = {title: result.outputs[workflow.id(title)]["text"][0] for title in ("Load DiffLoRA", "Mix Features")}
    assert re.search(r"rank \d+", text["Load DiffLoRA"])
    assert re.findall(r"(\d+)%", text["Mix Features"]), "the node shows the gate's weights"
    (made,) = client.images(result, workflow.id("Save Image"))
    assert made.size == (128, 128)
    faces = client.images(result, workflow.id("Encode Face"))  # the references with boxes
    assert len(faces) == 3
    assert all(np.asarray(face).std() > 10 for face in faces)


def test_lora_changes_the_image_and_strength_0_does_not(
    client: Client, workflow: ApiPrompt, portrait: Image.Image
) -> None:
    without_lora = generated(client, workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint")))
    assert identical(without_lora, generated(client, workflow.copy().set("Your strength", strength=0.0)))
    difference = np.abs(np.asarray(without_lora, np.int16) - np.asarray(portrait, np.int16)).mean()
    assert difference > 3, f"the LoRA changes the image by {difference:.2f} of 255 on average"


def test_incoming_model_is_not_changed(client: Client, workflow: ApiPrompt, portrait: Image.Image) -> None:
    stronger = generated(client, workflow.copy().set("Your strength", strength=1.5))
    assert not identical(stronger, portrait)
    assert identical(generated(client, workflow.copy().set("Save Image", filename_prefix="again")), portrait)


def test_every_module_is_patched(client: Client, workflow: ApiPrompt) -> None:
    result = client.run(workflow.copy().set("Your strength", strength=0.9).only("Save Image").prompt)
    modules = len(DiffLoRA.load(CHECKPOINT).layout.modules)
    text = result.outputs[workflow.id("Your strength")]["text"][0]
    assert text == f"{modules}/{modules} modules patched"


def patched(client: Client, graph: ApiPrompt) -> int:
    """Return the number of modules that Apply LoRA shows as patched."""
    result = client.run(graph.only("Save Image").prompt)
    return int(result.outputs[graph.id("Your strength")]["text"][0].split("/")[0])


def test_strength_by_group_of_blocks(client: Client, workflow: ApiPrompt, portrait: Image.Image) -> None:
    modules = len(DiffLoRA.load(CHECKPOINT).layout.modules)
    groups = ("input", "middle", "output")
    alone = {
        group: workflow.copy().set("Your strength", **{other: float(other == group) for other in groups})
        for group in groups
    }
    assert sum(patched(client, graph) for graph in alone.values()) == modules
    images = [generated(client, graph).tobytes() for graph in alone.values()]
    assert len({portrait.tobytes(), *images}) == 4
    without_lora = generated(client, workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint")))
    assert identical(
        without_lora, generated(client, workflow.copy().set("Your strength", input=0.0, middle=0.0, output=0.0))
    )


def test_core_model_loader_makes_the_same_generated(client: Client, workflow: ApiPrompt, portrait: Image.Image) -> None:
    graph = workflow.copy()
    model, lora = graph.output("Load Checkpoint"), graph.output("Decode LoRA")
    add_core(client, graph, "Core", "LoraModelLoader", model=model, lora=lora, strength_model=1.0)
    assert identical(generated(client, graph.set("KSampler", model=graph.output("Core"))), portrait)


def test_saved_file_through_core_loader_gives_the_same_image(
    client: Client, workflow: ApiPrompt, portrait: Image.Image, saved: Path
) -> None:
    listed = client.object_info()["LoraLoaderModelOnly"]["input"]["required"]["lora_name"][0]
    assert saved.name in listed
    assert identical(generated(client, with_core_loader(workflow, saved.name)), portrait)


def test_saved_file_is_read_by_our_own_reader(saved: Path) -> None:
    layout = DiffLoRA.load(CHECKPOINT).layout
    assert read_lora(saved, layout).shape == (layout.numel,)


def test_the_lora_depends_on_the_seed(client: Client, workflow: ApiPrompt, base: Path, saved: Path) -> None:
    def file(name: str, seed: int) -> bytes:
        graph = workflow.copy().set("Sample LoRA", seed=seed).set("Save LoRA", filename_prefix=name)
        client.run(graph.only("Save LoRA").prompt)
        (path,) = files_named(base, name)
        return path.read_bytes()

    assert file("other_seed", 77) != saved.read_bytes()
    assert file("same_seed", 1) == saved.read_bytes()


def test_unchanged_inputs_do_not_run_again(client: Client, workflow: ApiPrompt, portrait: Image.Image) -> None:
    prompt = workflow.only("Save Image").prompt
    assert set(cached_nodes(client, prompt)) == set(prompt)


def cached_nodes(client: Client, prompt: Prompt) -> list[str]:
    """Run a prompt and return the ids of the nodes that the server did not run."""
    prompt_id = client.queue(prompt)
    client.wait(prompt_id)
    entry = requests.get(f"{client.url}/history/{prompt_id}", timeout=30).json()[prompt_id]
    return dict(entry["status"]["messages"])["execution_cached"]["nodes"]


def test_interrupt_stops_sampling(client: Client, workflow: ApiPrompt) -> None:
    """In the middle, of so many steps that it takes minutes."""
    graph = workflow.copy().set("Sample LoRA", settings="custom", steps=1000, samples=64, seed=5)
    interrupted = interrupt_at_step(client, graph.only("Save LoRA"), "Sample LoRA")
    assert interrupted.error == "DiffLoRASample: interrupted"
    assert 0 < interrupted.last_step < interrupted.steps == 1000


def test_the_positive_side_alone(client: Client, workflow: ApiPrompt, portrait: Image.Image) -> None:
    """Another image than with both sides; without guidance the same but for rounding."""
    beside = workflow.copy().set("Your strength", side="positive")
    assert not identical(generated(client, beside), portrait)
    plain, other = (generated(client, graph.copy().set("KSampler", cfg=1.0)) for graph in (workflow, beside))
    assert np.abs(np.asarray(plain, np.int16) - np.asarray(other, np.int16)).max() <= 2
