"""A LoRA beside the layers, in a whole workflow on a real ComfyUI; single steps: tests/nodes/test_positive_side.py."""

import numpy as np

from miniature.comfyui.api_prompt import ApiPrompt
from training.comfyui_client import Client


def test_the_image_is_that_of_patched_weights(client: Client, workflow: ApiPrompt) -> None:
    def image(**apply: object) -> np.ndarray:
        graph = workflow.copy().set("Your strength", **apply)
        result = client.run(graph.only("Save Image").prompt)
        return np.asarray(client.images(result, graph.id("Save Image"))[0], float)

    patched = image()
    assert np.abs(image(bypass=True) - patched).max() <= 2, "a branch rounds otherwise than a patched weight"
    assert np.abs(image(strength=0.0) - patched).mean() > 5
