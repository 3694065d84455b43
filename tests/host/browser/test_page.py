"""Every example workflow in a real browser: opened from Templates, nothing missing, queued from the page, finished.

Screenshots are kept in output/tests/. Without chromium these tests are skipped.
"""

import importlib.metadata
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.browser import CHROMIUM, chromium, opened, settings
from miniature.comfyui.host import Host
from miniature.comfyui.workflows import FOLDER, WORKFLOWS
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client

SHOTS = ROOT / "output" / "tests"
MISSING = "window.app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, on Debian apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def prepared(host: Host, client: Client, base: Path) -> Client:
    """A server with the images and the LoRA that the workflows name, and without first-start dialog."""
    settings(host.url, TutorialCompleted=True)
    for name in ("reference_1.png", "reference_2.png", "reference_3.png", "pose.png"):
        image = draw(person(7020), reference_scene(np.random.default_rng(len(name)))).image
        client.upload(Image.fromarray(image), name)
    graph = ApiPrompt.load(FOLDER / "difflora_save_and_load.json", client.object_info())
    if not (base / "models" / "loras" / graph.prompt[graph.id("Load LoRA")]["inputs"]["lora_name"]).exists():
        client.run(graph.only("Save LoRA").prompt)
    return client


@pytest.fixture
def page(browser: Browser, prepared: Client) -> Iterator[Page]:
    with opened(browser, prepared.url) as page:
        yield page


def open_template(page: Page, name: str) -> None:
    """Open a template as a user does: the Templates button, the search field, the card."""
    page.locator('[aria-label="Templates"], .templates-tab-button').first.click()
    page.locator('[role="dialog"] input').first.fill("difflora")
    page.locator(f'[data-testid="template-workflow-{name}"]').click()
    page.wait_for_function("count => window.app.graph._nodes.length === count", arg=_count(name), timeout=30_000)


def _count(name: str) -> int:
    return len(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"])


def finished(client: Client, before: set[str], seconds: float = 120.0) -> dict:
    """Wait for a new entry of the history and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        entries = requests.get(f"{client.url}/history", timeout=30).json()
        for name in entries.keys() - before:
            return entries[name]
        time.sleep(0.2)
    raise TimeoutError(f"nothing finished within {seconds:.0f} s")


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_opens_from_templates_and_runs(page: Page, prepared: Client, name: str) -> None:
    open_template(page, name)
    assert page.evaluate(MISSING) == []
    before = prepared.history()
    page.locator('[data-testid="queue-button"]').first.click()
    entry = finished(prepared, before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    page.wait_for_timeout(1500)
    page.keyboard.press(".")  # the whole workflow into view
    page.wait_for_timeout(500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
    shown = page.evaluate("Object.values(window.app.nodeOutputs).flatMap(o => o.images ?? []).length")
    assert shown >= 1, "the page shows no image"


def test_blueprint_becomes_a_node(page: Page) -> None:
    """From the node library onto the canvas: the pipeline inside, images and models as inputs and outputs."""
    page.keyboard.press("n")
    page.get_by_placeholder("Search").first.fill("Personalize")
    page.get_by_text("Personalize", exact=True).first.click()
    page.mouse.click(1100, 500)
    page.wait_for_function("window.app.graph._nodes.some(n => n.title === 'Personalize')", timeout=30_000)
    node = page.evaluate(
        """() => {
            const node = window.app.graph._nodes.find(n => n.title === 'Personalize');
            return [node.inputs.map(i => i.type), node.outputs.map(o => o.type), node.subgraph._nodes.map(n => n.type)];
        }"""
    )
    inputs, outputs, inside = node
    assert inputs == ["IMAGE", "MODEL"]
    assert outputs == ["MODEL", "LORA_MODEL"]
    assert len(inside) == 9
    assert page.evaluate("types => types.filter(t => !(t in LiteGraph.registered_node_types))", inside) == []


def test_help_page_shows_its_image(page: Page) -> None:
    """Opened by the information button above a selected node; the page is Markdown with an image beside it."""
    open_template(page, "difflora_one_picture")
    page.evaluate(
        """() => {
            const node = window.app.graph._nodes.find(n => n.type === 'DiffLoRAEncodeFace');
            window.app.canvas.centerOnNode(node);
            window.app.canvas.selectItems([node]);
            window.app.canvas.setDirty(true, true);
        }"""
    )
    page.locator("[data-testid=info-button]").first.click()
    image = page.wait_for_selector("img[src$='DiffLoRAEncodeFace.png']", timeout=10_000)
    page.wait_for_function("image => image.naturalWidth > 100", arg=image, timeout=10_000)
    assert page.get_by_role("heading", name="If it fails").count() == 1


def test_page_in_chinese(browser: Browser, prepared: Client) -> None:
    version = importlib.metadata.version("comfyui-frontend-package")
    if tuple(map(int, version.split(".")[:2])) < (1, 35):
        pytest.skip(f"frontend {version} replaces packs' translations by its own when another language is chosen")
    settings(prepared.url, Locale="zh")
    try:
        with opened(browser, prepared.url) as page:
            title = "window.LiteGraph.registered_node_types['DiffLoRAEncodeFace'].title"
            page.wait_for_function(f"{title} === '编码人脸'", timeout=10_000)
    finally:
        settings(prepared.url, Locale="en")
