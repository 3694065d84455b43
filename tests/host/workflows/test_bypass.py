"""A LoRA beside the layers, in a whole workflow on a real ComfyUI; single steps: tests/nodes/test_positive_side.py."""

import numpy as np
import pytest

from miniature.comfyui.api_prompt import ApiPrompt
from training.comfyui_client import Client, PromptError


def test_the_image_is_that_of_patched_weights(client: Client, workflow: ApiPrompt) -> None:
    def image(**apply: object) -> np.ndarray:
        graph = workflow.copy().set("Your strength", **apply)
        result = client.run(graph.only("Save Image").prompt)
        return np.asarray(client.images(result, graph.id("Save Image"))[0], float)

    patched = image()
    assert np.abs(image(bypass=True) - patched).max() <= 2, "a branch rounds otherwise than a patched weight"
    assert np.abs(image(strength=0.0) - patched).mean() > 5


@pytest.mark.parametrize("apply", [{"side": "positive"}, {"bypass": True}])
def test_a_model_is_not_saved_without_its_lora(client: Client, workflow: ApiPrompt, apply: dict) -> None:
    """Core's nodes write weights, which would be the base model's; those of a patched model are saved as before."""
    graph = workflow.copy()
    graph.add("Save", "ModelSave", model=graph.output("Your strength"), filename_prefix="whole")
    client.run(graph.only("Save", "Save Image").prompt)
    with pytest.raises(PromptError, match=r"ModelSave: .*beside its layers.*set `side`.*both, and `bypass` off"):
        client.run(graph.set("Your strength", **apply).only("Save", "Save Image").prompt)
    client.run(graph.set("KSampler", seed=2).only("Save Image").prompt)
