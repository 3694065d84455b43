"""The miniature's warning of a latent that is larger or smaller than its training images, on a real ComfyUI."""

import json

from safetensors import safe_open

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host
from miniature.paths import WEIGHTS
from training.comfyui_client import Client

WARNING = "Latent is "


def trained_size() -> int:
    """Side in pixels of the base model's images, as its file says."""
    with safe_open(WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors", "pt") as file:
        return 8 * json.loads(file.metadata()["unet"])["sample_size"]


def sampled(client: Client, workflow: ApiPrompt, seed: int, width: int, height: int, **sampler: object) -> None:
    """Sample a latent of a size, without a person's LoRA."""
    graph = workflow.copy().set("Empty Latent Image", width=width, height=height)
    graph.set("KSampler", model=graph.output("Load Checkpoint"), seed=seed, **{"steps": 1, **sampler})
    client.run(graph.only("Save Image").prompt)


def test_a_latent_of_another_size_is_warned_of_once_a_run(client: Client, host: Host, workflow: ApiPrompt) -> None:
    def warnings() -> list[str]:
        return [line for line in host.log()[before:].splitlines() if WARNING in line]

    before, size = len(host.log()), trained_size()
    sampled(client, workflow, 1, size, size)
    sampled(client, workflow, 1, 2 * size, size)  # as for two people in one picture
    assert warnings() == []
    sampled(client, workflow, 1, 512, 512)
    (warning,) = warnings()
    assert f"Latent is 512 × 512, expected {size} × {size}: set Empty Latent Image to {size}." in warning
    sampled(client, workflow, 2, 512, 512, cfg=1.0)
    assert len(warnings()) == 2
    sampled(client, workflow, 1, 64, 64)
    assert f"64 × 64, expected {size} × {size}" in warnings()[2]
