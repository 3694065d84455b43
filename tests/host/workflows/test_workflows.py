"""The example workflows as files, and what the one with a ControlNet does."""

from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from scipy.ndimage import binary_dilation

from difflora_core.model import DiffLoRA
from miniature.base_model.train_control_lora import edges
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import PACK_NAME, Host
from miniature.comfyui.workflows import FOLDER, WORKFLOWS, write_workflows
from miniature.paths import DIFFLORA_CHECKPOINT, ROOT
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import Scene, reference_scene
from training.comfyui_client import Client

PINNED_HOST = "0.3.75"
"""The host that the shipped workflows were written with; others describe the core nodes in another way."""


def test_files_are_what_the_program_writes(client: Client, host: Host, tmp_path: Path) -> None:
    """With the sampling that the checkpoint recommends. After a change run `python -m miniature workflows`."""
    version = requests.get(f"{host.url}/system_stats", timeout=30).json()["system"]["comfyui_version"]
    if version != PINNED_HOST:
        pytest.skip(f"written with ComfyUI {PINNED_HOST}; this one, {version}, describes core nodes in another way")
    write_workflows(client.object_info(), DiffLoRA.load(DIFFLORA_CHECKPOINT).config.sampling, tmp_path)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    shipped = {
        path.relative_to(ROOT) for folder in ("workflows", "subgraphs") for path in (ROOT / folder).glob("*.json")
    }
    assert written == shipped
    for name in written:
        assert (ROOT / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), name


def test_blueprint_is_offered(host: Host) -> None:
    entries = requests.get(f"{host.url}/global_subgraphs", timeout=30).json()
    names = {entry["name"] for entry in entries.values() if entry["info"]["node_pack"].endswith(PACK_NAME)}
    assert names == {"Personalize"}


def test_every_workflow_has_a_thumbnail() -> None:
    for name in WORKFLOWS:
        with Image.open(FOLDER / f"{name}.jpg") as image:
            assert min(image.size) >= 256


def test_control_and_second_lora_both_take_effect(client: Client) -> None:
    graph = ApiPrompt.load(FOLDER / "7-ControlNet-and-a-second-LoRA.json", client.object_info())
    reference = draw(person(7010), reference_scene(np.random.default_rng(0))).image
    graph.set("Your picture", image=client.upload(Image.fromarray(reference), "beside_others.png"))
    pose = draw(person(7012), Scene(expression="laughing", pose="turned left", yaw=-0.35, shift_x=6.0)).image
    graph.set("Your pose", image=client.upload(Image.fromarray(pose), "pose_of_another.png"))

    def generated(control: float, beanie: float) -> np.ndarray:
        changed = (
            graph.copy()
            .set("Apply ControlNet", strength=control, end_percent=1.0)
            .set("Second LoRA", strength_model=beanie)
        )
        result = client.run(changed.only("Save Image").prompt)
        return np.asarray(client.images(result, changed.id("Save Image"))[0])

    free, controlled, dressed = generated(0.0, 0.0), generated(1.0, 0.0), generated(0.0, 1.0)
    wanted = edges(pose[None], 0.1, 0.2)[0]
    followed = [(wanted & binary_dilation(edges(made[None], 0.1, 0.2)[0])).mean() for made in (free, controlled)]
    assert followed[1] > 1.2 * followed[0]

    def blue(made: np.ndarray) -> float:
        """Return the share of blue pixels in the upper half, where the hat is and the shirt is not."""
        red, _, blue = made[:64].astype(int).transpose(2, 0, 1)
        return float((blue > red + 30).mean())

    assert blue(dressed) > blue(free) + 0.05
