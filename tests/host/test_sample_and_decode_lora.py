"""Candidates and precision of Sample LoRA and Decode LoRA on a real ComfyUI."""

from pathlib import Path

import pytest
import torch

from miniature.comfyui.api_prompt import ApiPrompt
from tests.host.lora_files import flat, saved
from training.comfyui_client import Client


def test_candidates_equal_single_runs_with_their_seeds(client: Client, workflow: ApiPrompt, base: Path) -> None:
    three = saved(
        client,
        workflow.copy().set("Sample LoRA", seed=40, candidates=3, steps=3, settings="custom"),
        base,
        "Decode LoRA",
        "three",
    )
    assert len(three) == 3
    (alone,) = saved(
        client, workflow.copy().set("Sample LoRA", seed=42, steps=3, settings="custom"), base, "Decode LoRA", "alone"
    )
    torch.testing.assert_close(flat(three[2]), flat(alone), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(flat(three[0]), flat(three[2]), rtol=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_makes_nearly_the_same_lora(
    client: Client, workflow: ApiPrompt, base: Path, precision: str
) -> None:
    (full,) = saved(client, workflow, base, "Decode LoRA", f"full_{precision}")
    graph = workflow.copy().set("Load DiffLoRA", precision=precision)
    (half,) = saved(client, graph, base, "Decode LoRA", f"half_{precision}")
    assert not torch.equal(flat(half), flat(full))
    assert torch.nn.functional.cosine_similarity(flat(half), flat(full), dim=0) > 0.99


def test_recommended_settings_are_the_checkpoints(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """Whatever the widgets say; a workflow from before there was a choice has its own."""
    (shipped,) = saved(client, workflow, base, "Decode LoRA", "recommended")
    other = workflow.copy().set("Sample LoRA", latent_scale=0.5, settings="recommended")
    (same,) = saved(client, other, base, "Decode LoRA", "unchanged")
    assert torch.equal(flat(same), flat(shipped))
    del other.prompt[other.id("Sample LoRA")]["inputs"]["settings"]
    (own,) = saved(client, other, base, "Decode LoRA", "of_its_own")
    assert not torch.allclose(flat(own), flat(shipped), rtol=1e-2)


def test_candidates_differ_with_the_temperature(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """With custom settings alone; a workflow from before there was a temperature has none."""

    def candidates(name: str, **settings: float | str) -> torch.Tensor:
        graph = workflow.copy().set("Sample LoRA", seed=40, candidates=3, steps=3, settings="custom")
        graph.set("Sample LoRA", **settings)
        if "temperature" not in settings:
            del graph.prompt[graph.id("Sample LoRA")]["inputs"]["temperature"]
        return torch.stack([flat(path) for path in saved(client, graph, base, "Decode LoRA", name)])

    before, plain = candidates("before"), candidates("plain", temperature=0.0)
    torch.testing.assert_close(plain, before, rtol=1e-3, atol=1e-5)
    cool, hot = candidates("cool", temperature=0.3), candidates("hot", temperature=0.6)
    assert 3 * plain.std(0).norm() < cool.std(0).norm() < 0.7 * hot.std(0).norm()
    (alone,) = candidates("alone_cool", temperature=0.3, seed=42, candidates=1)
    torch.testing.assert_close(cool[2], alone, rtol=1e-3, atol=1e-5)
    recommended, same = (candidates(f"own_{t}", temperature=t, settings="recommended") for t in (0.0, 1.5))
    torch.testing.assert_close(recommended, same, rtol=1e-3, atol=1e-5)
