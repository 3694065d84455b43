"""Load LoRA File: what Save LoRA wrote comes back, under the names of any format."""

from pathlib import Path

import pytest
import torch

from miniature.comfyui.api_prompt import ApiPrompt
from tests.host.lora_files import flat, saved
from training.comfyui_client import Client


@pytest.mark.parametrize("format", ["kohya", "peft"])
def test_a_saved_lora_comes_back(client: Client, workflow: ApiPrompt, base: Path, format: str) -> None:
    graph = workflow.copy().set("Save LoRA", filename_prefix=f"saved_{format}", format=format)
    graph.add("Read", "DiffLoRALoadLoRA", lora_name=graph.output("Save LoRA"))
    (again,) = saved(client, graph, base, "Read", f"read_{format}")
    (before,) = saved(client, graph, base, "Decode LoRA", f"before_{format}")
    torch.testing.assert_close(flat(again), flat(before))


def test_a_file_is_encoded(client: Client, workflow: ApiPrompt, base: Path) -> None:
    graph = workflow.copy().set("Save LoRA", filename_prefix="to_encode", format="peft")
    graph.add("Read", "DiffLoRALoadLoRA", lora_name=graph.output("Save LoRA"))
    graph.add("Encode", "DiffLoRAEncode", model=graph.output("Load DiffLoRA"), lora=graph.output("Read"))
    graph.add("Again", "DiffLoRADecode", model=graph.output("Load DiffLoRA"), latent=graph.output("Encode"))
    (before,) = saved(client, graph, base, "Decode LoRA", "not_encoded")
    (after,) = saved(client, graph, base, "Again", "encoded")
    assert torch.nn.functional.cosine_similarity(flat(before), flat(after), dim=0) > 0.97


def test_the_node_says_what_the_file_is(client: Client, workflow: ApiPrompt) -> None:
    name = "miniature_blue_beanie.safetensors"
    graph = workflow.copy().add("Read", "DiffLoRALoadLoRA", lora_name=name).set("Your strength", strict=False)
    graph.set("Your strength", lora=graph.output("Read")).set("Empty Latent Image", width=64, height=64)
    result = client.run(graph.set("KSampler", steps=1).only("Save Image").prompt)
    (text,) = result.outputs[graph.id("Read")]["text"]
    assert text.startswith("LoRA\nfile: ")
    assert "names: " in text
