"""Candidates, blending and saving on a real ComfyUI."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from difflora_core.lora.file_formats import read_lora
from difflora_core.model import DiffLoRA
from miniature.comfyui.client import Client, PromptError
from miniature.comfyui.graph import Graph
from miniature.personal.held_out import CHECKPOINT


def saved(client: Client, graph: Graph, base: Path, lora: str, name: str, **widgets: str) -> list[Path]:
    """Save the LORA_MODELs of a node with our node and return the files."""
    graph = graph.copy().add("Ours", "DiffLoRASave", lora=graph.output(lora), filename_prefix=name, **widgets)
    graph.set("Ours", **{"format": "kohya", "folder": "output/loras", **widgets})
    client.run(graph.only("Ours").prompt)
    return sorted((base / "output" / "loras").glob(f"{name}_*.safetensors"))


def flat(path: Path) -> torch.Tensor:
    return read_lora(path, DiffLoRA.load(CHECKPOINT).layout)


def test_candidates_are_what_their_seeds_make_alone(client: Client, workflow: Graph, base: Path) -> None:
    three = saved(
        client, workflow.copy().set("Sample LoRA", seed=40, candidates=3, steps=3), base, "Decode LoRA", "three"
    )
    assert len(three) == 3
    (alone,) = saved(client, workflow.copy().set("Sample LoRA", seed=42, steps=3), base, "Decode LoRA", "alone")
    torch.testing.assert_close(flat(three[2]), flat(alone), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(flat(three[0]), flat(three[2]), rtol=1e-2)


def with_blend(graph: Graph, **settings: float) -> Graph:
    """Two draws of the person, blended."""
    graph = graph.copy()
    second = {**graph.prompt[graph.id("Sample LoRA")]["inputs"], "seed": 99}
    graph.add("Second", "DiffLoRASample", **second)
    links = {"first": graph.output("Sample LoRA"), "second": graph.output("Second")}
    graph.add("Blend", "DiffLoRABlend", **{**links, "amount": 0.5, "latent_scale": 1.0, **settings})
    return graph.set("Decode LoRA", latent=graph.output("Blend"))


def test_blend_ends_are_the_two_people(client: Client, workflow: Graph, base: Path) -> None:
    (first,) = saved(client, workflow, base, "Decode LoRA", "first")
    (again,) = saved(client, with_blend(workflow, amount=0.0), base, "Decode LoRA", "amount0")
    (other,) = saved(client, with_blend(workflow, amount=1.0), base, "Decode LoRA", "amount1")
    torch.testing.assert_close(flat(again), flat(first))
    assert not torch.allclose(flat(other), flat(first), rtol=1e-2)


def test_latent_scale_zero_is_the_average_person(client: Client, workflow: Graph, base: Path) -> None:
    (average,) = saved(client, with_blend(workflow, latent_scale=0.0), base, "Decode LoRA", "average")
    model = DiffLoRA.load(CHECKPOINT)
    expected = model.decode(torch.zeros(1, model.config.dit.tokens, model.config.dit.latent_width))[0]
    torch.testing.assert_close(flat(average), expected, rtol=1e-3, atol=1e-5)


def test_a_lora_goes_back_into_the_latent_space(client: Client, workflow: Graph, base: Path) -> None:
    graph = workflow.copy()
    links = {"model": graph.output("Load DiffLoRA"), "lora": graph.output("Decode LoRA")}
    graph.add("Encode", "DiffLoRAEncode", **links)
    graph.add("Again", "DiffLoRADecode", model=graph.output("Load DiffLoRA"), latent=graph.output("Encode"))
    (before,) = saved(client, graph, base, "Decode LoRA", "before")
    (after,) = saved(client, graph, base, "Again", "after")
    cosine = torch.nn.functional.cosine_similarity(flat(before), flat(after), dim=0)
    assert cosine > 0.97


def test_metadata_says_what_made_it(client: Client, workflow: Graph, base: Path) -> None:
    (path,) = saved(client, workflow.copy().set("Sample LoRA", seed=5), base, "Decode LoRA", "meta")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    made = json.loads(metadata["difflora"])
    assert made["checkpoint"] == "miniature.safetensors"
    assert made["seed"] == 5
    assert len(made["references"]) == 16
    assert metadata["ss_network_dim"] == str(DiffLoRA.load(CHECKPOINT).layout.rank)


def test_peft_names_for_diffusers(client: Client, workflow: Graph, base: Path) -> None:
    (path,) = saved(client, workflow, base, "Decode LoRA", "peft", format="peft")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in load_file(path))
    (kohya,) = saved(client, workflow, base, "Decode LoRA", "kohya")
    torch.testing.assert_close(flat(path), flat(kohya))


def test_foreign_lora_is_not_guessed_at(client: Client, workflow: Graph, base: Path) -> None:
    (path,) = saved(client, workflow, base, "Decode LoRA", "unknown")
    graph = workflow.copy().add("File", "DiffLoRATestReadLoRA", lora_name=f"{path.name}")
    with pytest.raises(PromptError, match=r"DiffLoRASave: only a LoRA from Decode LoRA"):
        saved(client, graph, base, "File", "unknown_peft", format="peft")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_makes_nearly_the_same_lora(client: Client, workflow: Graph, base: Path, precision: str) -> None:
    (full,) = saved(client, workflow, base, "Decode LoRA", f"full_{precision}")
    graph = workflow.copy().set("Load DiffLoRA", precision=precision)
    (half,) = saved(client, graph, base, "Decode LoRA", f"half_{precision}")
    assert not torch.equal(flat(half), flat(full))
    assert torch.nn.functional.cosine_similarity(flat(half), flat(full), dim=0) > 0.99
