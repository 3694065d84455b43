"""Metadata and formats of Save LoRA on a real ComfyUI."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from difflora_core.lora.lora import METADATA_KEY
from difflora_core.model import DiffLoRA
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import DIFFLORA_CHECKPOINT
from tests.host.lora_files import flat, saved
from training.comfyui_client import Client, PromptError


def test_metadata_records_how_it_was_made(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (path,) = saved(client, workflow.copy().set("Sample LoRA", seed=5), base, "Decode LoRA", "meta")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    made = json.loads(metadata[METADATA_KEY])
    assert made["checkpoint"] == "miniature.safetensors"
    assert made["seed"] == 5
    assert len(made["references"]) == 16
    assert metadata["ss_network_dim"] == str(DiffLoRA.load(DIFFLORA_CHECKPOINT).layout.rank)


def test_peft_names_for_diffusers(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (path,) = saved(client, workflow, base, "Decode LoRA", "peft", format="peft")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in load_file(path))
    (kohya,) = saved(client, workflow, base, "Decode LoRA", "kohya")
    torch.testing.assert_close(flat(path), flat(kohya))


def test_peft_names_of_other_loras_are_an_error(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (path,) = saved(client, workflow, base, "Decode LoRA", "unknown")
    graph = workflow.copy().add("File", "DiffLoRALoadLoRA", lora_name=f"{path.name}")
    with pytest.raises(PromptError, match=r"DiffLoRASave: only a LoRA from Decode LoRA"):
        saved(client, graph, base, "File", "unknown_peft", format="peft")


def test_no_name_is_the_default_name(client: Client, workflow: ApiPrompt, base: Path) -> None:
    saved(client, workflow, base, "Decode LoRA", "")
    assert list((base / "output" / "loras").glob("difflora_*.safetensors"))
    assert not list((base / "output" / "loras").glob(".*.safetensors"))


def test_longest_name_is_saved(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (path,) = saved(client, workflow, base, "Decode LoRA", "n" * 236)
    assert len(path.name) == 255


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("con", "'con' is the name of a device"),
        ("COM1/x", "'COM1' is the name of a device"),
        ("a:b", "contains ':'"),
        ("n" * 240, "at most 236 fit"),
    ],
)
def test_impossible_names_are_refused_before_any_node_runs(
    client: Client, workflow: ApiPrompt, base: Path, name: str, message: str
) -> None:
    before = client.history()
    with pytest.raises(PromptError, match=message):
        saved(client, workflow, base, "Decode LoRA", name)
    assert client.history() == before


@pytest.mark.parametrize("folder", ["models/loras", "output/loras"])
def test_name_of_the_file_goes_into_load_lora(client: Client, workflow: ApiPrompt, base: Path, folder: str) -> None:
    """Core Load LoRA takes the output and waits for it; a file of that name in another folder is not mixed up."""
    name = folder.replace("/", "_")
    for other in ("models/loras", "output/loras"):
        (base / other / f"{name}_00001_.safetensors").write_bytes(b"another file")
    graph = workflow.copy().set("Sample LoRA", seed=77)
    graph.add("Ours", "DiffLoRASave", lora=graph.output("Decode LoRA"), filename_prefix=name, folder=folder)
    graph.set("Ours", format="kohya")
    links = {"model": graph.output("Load Checkpoint"), "lora_name": graph.output("Ours")}
    graph.add("Core", "LoraLoaderModelOnly", strength_model=1.0, **links)
    loaded, applied = (
        client.images(client.run(one.only("Save Image").prompt), one.id("Save Image"))[0]
        for one in (graph.copy().set("KSampler", model=graph.output("Core")), graph)
    )
    assert loaded.tobytes() == applied.tobytes()
    assert (base / folder / f"{name}_00002_.safetensors").exists()


def test_a_deleted_file_is_saved_again(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """ComfyUI has the node's result, and gives the name of a file that is gone to Load LoRA."""
    graph = workflow.copy().add("Ours", "DiffLoRASave", lora=workflow.output("Decode LoRA"), filename_prefix="deleted")
    graph.set("Ours", format="kohya", folder="output/loras")
    links = {"model": graph.output("Load Checkpoint"), "lora_name": graph.output("Ours")}
    graph.add("Core", "LoraLoaderModelOnly", strength_model=1.0, **links).set("KSampler", model=graph.output("Core"))
    files = base / "output" / "loras"
    for strength in (0.9, 0.8, 0.7, 0.6):
        client.run(graph.set("Core", strength_model=strength).only("Save Image").prompt)
        (path,) = files.glob("deleted_*")  # saved once
        if strength in (0.8, 0.7):
            path.unlink()


def test_a_deleted_file_of_two_nodes_with_one_prefix_is_saved_again(
    client: Client, workflow: ApiPrompt, base: Path
) -> None:
    """Also the one that was saved first, whose node gives its name to Load LoRA."""
    graph, files = workflow.copy(), base / "output" / "loras"
    for title, format_ in (("Ours", "kohya"), ("Another", "peft")):
        graph.add(title, "DiffLoRASave", lora=graph.output("Decode LoRA"), filename_prefix="twice", format=format_)
        graph.set(title, folder="output/loras")
    links = {"model": graph.output("Load Checkpoint"), "lora_name": graph.output("Ours")}
    graph.add("Core", "LoraLoaderModelOnly", strength_model=0.9, **links).set("KSampler", model=graph.output("Core"))
    client.run(graph.only("Ours").prompt)
    (first,) = files.glob("twice_*")
    result = client.run(graph.only("Save Image", "Another").prompt)
    assert len(list(files.glob("twice_*"))) == 2
    first.unlink()
    again = client.run(graph.set("Core", strength_model=0.8).only("Save Image", "Another").prompt)
    (before,), (after,) = (client.images(one, graph.id("Save Image")) for one in (result, again))
    assert before.tobytes() != after.tobytes()
    assert len(list(files.glob("twice_*"))) == 3  # both nodes save again
