"""One real ComfyUI for all tests of this folder, on the shipped weights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from difflora_core.checkpoint import HEADER
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.paths import ROOT, WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client

WORKFLOW = ROOT / "workflows" / "2-Portrait-from-several-pictures.json"
PERSON = 7000
CHECKPOINTS = WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors", WEIGHTS / "difflora" / "miniature.safetensors"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with the pack, and with damaged and foreign checkpoints in models/difflora."""
    base = prepare_base(tmp_path_factory.mktemp("host"))
    shutil.copytree(Path(__file__).with_name("odd_nodes"), base / "custom_nodes" / "odd_nodes")
    sdxl, difflora = CHECKPOINTS
    folder = base / "models" / "difflora"
    folder.mkdir()
    shutil.copyfile(sdxl, folder / "foreign.safetensors")
    (folder / "truncated.safetensors").write_bytes(difflora.read_bytes()[:-1000])
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with safe_open(difflora, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    save_file({}, folder / "newer.safetensors", {HEADER: json.dumps({**header, "format": header["format"] + 1})})
    return base


@pytest.fixture(scope="session")
def host(base: Path) -> Iterator[Host]:
    """The running server; it caches every result, so that tests do not repeat each other's computations."""
    with Host(base, arguments=("--cache-lru", "200")) as running:
        yield running


@pytest.fixture(scope="session")
def client(host: Host) -> Client:
    return Client(host.url)


@pytest.fixture(scope="session")
def workflow(client: Client) -> ApiPrompt:
    """The example workflow with images of a held-out person; tests copy it and never change it.

    Its LoRA is in the weights, for both sides of guidance, as core's own loader applies one.
    """
    graph = ApiPrompt.load(WORKFLOW, client.object_info()).set("Your strength", side="both")
    rng = np.random.default_rng(PERSON)
    for number in (1, 2, 3):
        image = Image.fromarray(draw(person(PERSON), reference_scene(rng)).image)
        graph.set(f"Your picture {number}", image=client.upload(image, f"reference_{number}.png"))
    return graph


@pytest.fixture(scope="session")
def two_people(client: Client) -> str:
    """An image of two people: 7001 on the left, 7002 on the right and larger."""
    rng = np.random.default_rng(1)
    left = Image.fromarray(draw(person(7001), reference_scene(rng), size=112).image)
    right = Image.fromarray(draw(person(7002), reference_scene(rng), size=160).image)
    image = Image.new("RGB", (300, 170), (200, 205, 210))
    image.paste(left, (5, 30))
    image.paste(right, (130, 5))
    return client.upload(image, "two_people.png")


@pytest.fixture(scope="session")
def nobody(client: Client) -> str:
    """An image without a person."""
    scene = reference_scene(np.random.default_rng(2))
    return client.upload(Image.fromarray(draw_empty(scene)), "nobody.png")
