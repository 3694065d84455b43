"""Encode LoRA, Blend Latents, Save and Load Identity on a real ComfyUI."""

from pathlib import Path

import pytest
import torch

from difflora_core.denoiser.latent_file import load_latents, save_latents
from difflora_core.model import DiffLoRA
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.personal.held_out_teachers import HeldOutTeachers
from tests.host.lora_files import flat, saved
from training.comfyui_client import Client, PromptError


def with_blend(graph: ApiPrompt, **settings: float) -> ApiPrompt:
    """Blend two samples of the person."""
    graph = graph.copy()
    second = {**graph.prompt[graph.id("Sample LoRA")]["inputs"], "seed": 99}
    graph.add("Second", "DiffLoRASample", **second)
    links = {"first": graph.output("Sample LoRA"), "second": graph.output("Second")}
    graph.add("Blend", "DiffLoRABlend", **{**links, "amount": 0.5, "latent_scale": 1.0, **settings})
    return graph.set("Decode LoRA", latent=graph.output("Blend"))


def test_blend_ends_are_the_two_people(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (first,) = saved(client, workflow, base, "Decode LoRA", "first")
    (again,) = saved(client, with_blend(workflow, amount=0.0), base, "Decode LoRA", "amount0")
    (other,) = saved(client, with_blend(workflow, amount=1.0), base, "Decode LoRA", "amount1")
    torch.testing.assert_close(flat(again), flat(first))
    assert not torch.allclose(flat(other), flat(first), rtol=1e-2)


def test_it_is_said_when_amount_is_not_used(client: Client, workflow: ApiPrompt) -> None:
    """A latent of a muted node does not arrive, and the page shows its link all the same."""

    def shown(graph: ApiPrompt) -> object:
        run = client.run(
            graph.add("Again", "DiffLoRASave", **save, lora=graph.output("Decode LoRA")).only("Again").prompt
        )
        return run.outputs.get(graph.id("Blend"), {}).get("text")

    save = {"filename_prefix": "amount", "format": "kohya", "folder": "output/loras"}
    two = with_blend(workflow, latent_scale=0.9)
    alone, three = two.copy(), two.copy().set("Blend", third=two.output("Second"))
    del alone.prompt[alone.id("Blend")]["inputs"]["second"]
    assert shown(alone) == ["one latent, no blend: amount is not used"]
    assert shown(three) == ["3 averaged: amount is not used"]
    assert shown(two) is None


def test_latent_scale_zero_is_the_average_person(client: Client, workflow: ApiPrompt, base: Path) -> None:
    (average,) = saved(client, with_blend(workflow, latent_scale=0.0), base, "Decode LoRA", "average")
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    expected = model.decode(torch.zeros(1, model.config.dit.tokens, model.config.dit.latent_width))[0]
    torch.testing.assert_close(flat(average), expected, rtol=1e-3, atol=1e-5)


def test_encoding_inverts_decoding(client: Client, workflow: ApiPrompt, base: Path) -> None:
    graph = workflow.copy()
    links = {"model": graph.output("Load DiffLoRA"), "lora": graph.output("Decode LoRA")}
    graph.add("Encode", "DiffLoRAEncode", **links)
    graph.add("Again", "DiffLoRADecode", model=graph.output("Load DiffLoRA"), latent=graph.output("Encode"))
    (before,) = saved(client, graph, base, "Decode LoRA", "before")
    (after,) = saved(client, graph, base, "Again", "after")
    cosine = torch.nn.functional.cosine_similarity(flat(before), flat(after), dim=0)
    assert cosine > 0.97


def test_encode_says_whether_the_checkpoint_made_the_lora(client: Client, workflow: ApiPrompt, base: Path) -> None:
    def shown(node: str, **inputs: object) -> str:
        # With a seed of its own, since a node whose result is cached sends no text again
        graph = workflow.copy().set("Sample LoRA", seed=31).add("LoRA", node, **inputs)
        graph.add("Encode", "DiffLoRAEncode", model=graph.output("Load DiffLoRA"), lora=graph.output("LoRA"))
        graph.add("Again", "DiffLoRADecode", model=graph.output("Load DiffLoRA"), latent=graph.output("Encode"))
        graph.set("Save LoRA", lora=graph.output("Again")).only("Save LoRA")
        return str(client.run(graph.prompt).outputs[graph.id("Encode")]["text"][0])

    teachers = HeldOutTeachers.load()
    teachers.write(teachers.people[0], base / "models" / "loras" / "teacher_to_encode.safetensors")
    own = shown("DiffLoRADecode", model=workflow.output("Load DiffLoRA"), latent=workflow.output("Sample LoRA"))
    assert own == "made by this checkpoint: its latent gives back 100% of the LoRA"
    foreign = shown("DiffLoRALoadLoRA", lora_name="teacher_to_encode.safetensors")
    assert foreign.startswith("of other origin: its latent gives back ")


def save_identity(client: Client, workflow: ApiPrompt, base: Path, name: str) -> Path:
    graph = workflow.copy().add("Identity", "DiffLoRASaveIdentity", latent=workflow.output("Sample LoRA"))
    client.run(graph.set("Identity", filename_prefix=name).only("Identity").prompt)
    (path,) = (base / "models" / "difflora_identities").glob(f"{name}_*.safetensors")
    return path


def test_a_saved_identity_is_the_lora_again(client: Client, workflow: ApiPrompt, base: Path) -> None:
    path = save_identity(client, workflow.copy().set("Sample LoRA", seed=11), base, "again")
    (first,) = saved(client, workflow.copy().set("Sample LoRA", seed=11), base, "Decode LoRA", "identity_first")
    graph = workflow.copy().add("Load", "DiffLoRALoadIdentity", identity=path.name)
    graph.set("Decode LoRA", latent=graph.output("Load"))
    (again,) = saved(client, graph, base, "Decode LoRA", "identity_again")
    assert torch.equal(flat(first), flat(again))
    found = load_latents(path)
    assert found.checkpoint == "miniature.safetensors"
    assert found.made_by[0]["seed"] == 11


def change_identity(
    client: Client, workflow: ApiPrompt, base: Path, name: str, checkpoint: str, autoencoder: str | None
) -> ApiPrompt:
    """Save an identity, change what its file says of the checkpoint, and decode it."""
    path = save_identity(client, workflow, base, name)
    own = load_latents(path)
    save_latents(path, own.latents, checkpoint, own.made_by, own.autoencoder if autoencoder is None else autoencoder)
    graph = workflow.copy().add("Load", "DiffLoRALoadIdentity", identity=path.name)
    return graph.set("Decode LoRA", latent=graph.output("Load")).only("Save LoRA")


@pytest.mark.parametrize(
    ("name", "checkpoint", "autoencoder", "message"),
    [
        (
            "other",
            "other.safetensors",
            "0123456789abcdef",
            "was made with other.safetensors, but is used with miniature",
        ),
        ("unknown", "other.safetensors", "", "was made with other.safetensors, but is used with miniature"),
        ("again", "miniature.safetensors", "0123456789abcdef", "another version of miniature.safetensors"),
    ],
)
def test_an_identity_of_another_autoencoder_is_an_error(
    client: Client, workflow: ApiPrompt, base: Path, name: str, checkpoint: str, autoencoder: str, message: str
) -> None:
    graph = change_identity(client, workflow, base, f"elsewhere_{name}", checkpoint, autoencoder)
    with pytest.raises(PromptError, match=rf"(?s)DiffLoRADecode: .*{message}"):
        client.run(graph.prompt)


def test_an_identity_of_a_renamed_checkpoint_is_decoded(client: Client, workflow: ApiPrompt, base: Path) -> None:
    client.run(change_identity(client, workflow, base, "renamed", "renamed.safetensors", None).prompt)
