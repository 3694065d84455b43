"""The road on a real ComfyUI: pictures in, a LoRA out, pictures with it."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from difflora_core.lora.file_formats import read_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.client import Client, PromptError
from miniature.comfyui.graph import Graph
from miniature.paths import WEIGHTS

CHECKPOINT = WEIGHTS / "difflora" / "miniature.safetensors"


def picture(client: Client, graph: Graph) -> Image.Image:
    result = client.run(graph.only("Save Image").prompt)
    return client.pictures(result, graph.id("Save Image"))[0]


def same(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a, b).getbbox() is None


def with_core_loader(graph: Graph, lora: str) -> Graph:
    model = graph.output("Load Checkpoint")
    graph = graph.copy().add("Core", "LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)
    return graph.set("KSampler", model=graph.output("Core"))


@pytest.fixture(scope="module")
def portrait(client: Client, workflow: Graph) -> Image.Image:
    """The workflow's picture, as it comes."""
    return picture(client, workflow)


@pytest.fixture(scope="module")
def saved(client: Client, workflow: Graph, base: Path) -> Path:
    """The LoRA of the workflow, saved by core SaveLoRA."""
    client.run(workflow.only("Save LoRA").prompt)
    (path,) = (base / "output" / "loras").glob("difflora_portrait_*.safetensors")
    return path


def test_memory_is_given_back(client: Client, workflow: Graph) -> None:
    """After POST /free nothing of the networks is on the device, and nothing refers to them."""

    def memory(ask: int) -> str:
        graph = Graph({}).add("Memory", "DiffLoRATestMemory", ask=ask)
        return client.run(graph.prompt).outputs[graph.id("Memory")]["text"][0]

    client.free()
    client.run(workflow.copy().set("Sample LoRA", seed=1234).only("Save LoRA").prompt)
    assert memory(1) == "1 loaded, 1 alive"
    client.free()
    assert memory(2) == "0 loaded, 0 alive"


def test_workflow_runs_as_shipped(client: Client, workflow: Graph) -> None:
    client.free()  # nodes whose result is still there would not show their text again
    result = client.run(workflow.prompt)
    text = {title: result.outputs[workflow.id(title)]["text"][0] for title in ("Load DiffLoRA", "Mix Features")}
    assert re.search(r"rank \d+", text["Load DiffLoRA"])
    assert re.findall(r"(\d+)%", text["Mix Features"]), "the gate's weights are shown in the node"
    (made,) = client.pictures(result, workflow.id("Save Image"))
    assert made.size == (128, 128)
    faces = client.pictures(result, workflow.id("Encode Face"))  # the references with boxes
    assert len(faces) == 3
    assert all(np.asarray(face).std() > 10 for face in faces)


def test_lora_changes_the_picture_and_strength_0_does_not(
    client: Client, workflow: Graph, portrait: Image.Image
) -> None:
    base_picture = picture(client, workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint")))
    assert same(base_picture, picture(client, workflow.copy().set("Apply LoRA", strength=0.0)))
    difference = np.abs(np.asarray(base_picture, np.int16) - np.asarray(portrait, np.int16)).mean()
    assert difference > 3, f"the LoRA changes the picture by {difference:.2f} of 255 on average"


def test_incoming_model_stays_as_it_was(client: Client, workflow: Graph, portrait: Image.Image) -> None:
    stronger = picture(client, workflow.copy().set("Apply LoRA", strength=1.5))
    assert not same(stronger, portrait)
    assert same(picture(client, workflow.copy().set("Save Image", filename_prefix="again")), portrait)


def test_every_module_arrives(client: Client, workflow: Graph) -> None:
    result = client.run(workflow.copy().set("Apply LoRA", strength=0.9).only("Save Image").prompt)
    modules = len(DiffLoRA.load(CHECKPOINT).layout.modules)
    text = result.outputs[workflow.id("Apply LoRA")]["text"][0]
    assert text == f"{modules}/{modules} modules patched"


def patched(client: Client, graph: Graph) -> int:
    """How many modules Apply LoRA says it patched."""
    result = client.run(graph.only("Save Image").prompt)
    return int(result.outputs[graph.id("Apply LoRA")]["text"][0].split("/")[0])


def test_strength_by_group_of_blocks(client: Client, workflow: Graph, portrait: Image.Image) -> None:
    modules = len(DiffLoRA.load(CHECKPOINT).layout.modules)
    groups = ("input", "middle", "output")
    alone = {
        group: workflow.copy().set("Apply LoRA", **{other: float(other == group) for other in groups})
        for group in groups
    }
    assert sum(patched(client, graph) for graph in alone.values()) == modules
    pictures = [picture(client, graph).tobytes() for graph in alone.values()]
    assert len({portrait.tobytes(), *pictures}) == 4
    base_picture = picture(client, workflow.copy().set("KSampler", model=workflow.output("Load Checkpoint")))
    assert same(base_picture, picture(client, workflow.copy().set("Apply LoRA", input=0.0, middle=0.0, output=0.0)))


def test_core_model_loader_makes_the_same_picture(client: Client, workflow: Graph, portrait: Image.Image) -> None:
    graph = workflow.copy()
    model, lora = graph.output("Load Checkpoint"), graph.output("Decode LoRA")
    graph.add("Core", "LoraModelLoader", model=model, lora=lora, strength_model=1.0)
    assert same(picture(client, graph.set("KSampler", model=graph.output("Core"))), portrait)


def test_saved_file_through_core_loader_makes_the_same_picture(
    client: Client, workflow: Graph, portrait: Image.Image, saved: Path
) -> None:
    listed = client.object_info()["LoraLoaderModelOnly"]["input"]["required"]["lora_name"][0]
    assert saved.name in listed
    assert same(picture(client, with_core_loader(workflow, saved.name)), portrait)


def test_saved_file_is_read_by_our_own_reader(saved: Path) -> None:
    layout = DiffLoRA.load(CHECKPOINT).layout
    assert read_lora(saved, layout).shape == (layout.numel,)


def test_seed_decides_the_lora(client: Client, workflow: Graph, base: Path, saved: Path) -> None:
    def file(name: str, seed: int) -> bytes:
        graph = workflow.copy().set("Sample LoRA", seed=seed).set("Save LoRA", prefix=f"loras/{name}")
        client.run(graph.only("Save LoRA").prompt)
        (path,) = (base / "output" / "loras").glob(f"{name}_*.safetensors")
        return path.read_bytes()

    assert file("other_seed", 77) != saved.read_bytes()
    assert file("same_seed", 1) == saved.read_bytes()


def test_unchanged_inputs_do_not_run_again(client: Client, workflow: Graph, portrait: Image.Image) -> None:
    assert client.run(workflow.only("Save Image").prompt).seconds < 0.5


def test_interrupt_stops_sampling_within_a_step(client: Client, workflow: Graph) -> None:
    graph = workflow.copy().set("Sample LoRA", steps=1000, samples=8, seed=5)
    prompt_id = client.queue(graph.only("Save LoRA").prompt)
    threading.Timer(2.0, client.interrupt).start()
    start = time.monotonic()
    with pytest.raises(PromptError, match="interrupt"):
        client.wait(prompt_id, timeout=60)
    assert time.monotonic() - start < 8
