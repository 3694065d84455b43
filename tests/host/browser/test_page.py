"""Every example workflow in a real browser: opened from Templates, nothing missing, queued from the page, finished.

Screenshots are kept in output/tests/. Without chromium these tests are skipped.
"""

import importlib.metadata
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
from playwright.sync_api import Browser, Page
from safetensors.torch import save_file

from miniature.comfyui.browser import CHROMIUM, chromium, opened, settings, wait_for_template
from miniature.comfyui.host import Host
from miniature.comfyui.workflows import FOLDER, WORKFLOWS
from miniature.demo.serve import FIRST_PAGE, example_images
from miniature.paths import ROOT
from training.comfyui_client import Client

CANVAS = (63, 130, 1537, 870)
"""What the page's bars leave of the window: x, y, width and height in pixels."""
SHOTS = ROOT / "output" / "tests"
MISSING = "window.app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, on Debian apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def prepared(host: Host, client: Client, base: Path) -> Client:
    """A server with the example images, and without first-start dialog."""
    settings(host.url, TutorialCompleted=True)
    example_images(base / "input")
    return client


@pytest.fixture
def page(browser: Browser, prepared: Client) -> Iterator[Page]:
    with opened(browser, prepared.url) as page:
        yield page


def open_template(page: Page, name: str) -> None:
    """Open a template as a user does: the Templates button, the search field, the card."""
    page.locator('[aria-label="Templates"], .templates-tab-button').first.click()
    page.locator('[role="dialog"] input').first.fill(name)
    page.locator(f'[data-testid="template-workflow-{name}"]').click()
    wait_for_template(page, name)


def _workflow(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def finished(client: Client, before: set[str], seconds: float = 120.0) -> dict:
    """Wait for a new entry of the history and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        entries = requests.get(f"{client.url}/history", timeout=30).json()
        for name in entries.keys() - before:
            return entries[name]
        time.sleep(0.2)
    raise TimeoutError(f"nothing finished within {seconds:.0f} s")


def faults_of_layout(page: Page, name: str) -> list[str]:
    """What is wrong with places and sizes on the page: none of it may be, before and after a run.

    Newer pages choose a zoom of their own, at which they draw no text in large workflows.
    """
    return page.evaluate(
        """([x, y, width, height, zoom]) => {
            const {graph, canvas} = window.app, faults = [], title = LiteGraph.NODE_TITLE_HEIGHT;
            const nodes = graph._nodes.map(n => [n.title, n.pos[0], n.pos[1] - title, n.size[0], n.size[1] + title]);
            const within = (n, f) => n[1] >= f[0] && n[2] >= f[1] && n[1] + n[3] <= f[0] + f[2]
                && n[2] + n[4] <= f[1] + f[3];
            for (const n of graph._nodes) {
                const needed = n.computeSize();
                if (needed[0] > n.size[0] + 1 || needed[1] > n.size[1] + 1)
                    faults.push(`${n.title} needs ${needed}, has ${n.size}`);
            }
            for (const [number, a] of nodes.entries())
                for (const b of nodes.slice(0, number))
                    if (a[1] < b[1] + b[3] && b[1] < a[1] + a[3] && a[2] < b[2] + b[4] && b[2] < a[2] + a[4])
                        faults.push(`${a[0]} overlaps ${b[0]}`);
            const frames = graph._groups.map(g => [...g._pos, ...g._size]);
            for (const n of nodes)
                if (!frames.some(f => within(n, f))) faults.push(`${n[0]} is in no group`);
            const {scale, offset} = canvas.ds;
            for (const f of frames) {
                const [left, top] = [(f[0] + offset[0]) * scale, (f[1] + offset[1]) * scale];
                if (left < x || top < y || left + f[2] * scale > x + width || top + f[3] * scale > y + height)
                    faults.push(`a group at ${f} is cut off`);
            }
            if (canvas.low_quality && scale === zoom) faults.push(`at zoom ${scale} the page draws no text`);
            for (const note of document.querySelectorAll('.comfy-markdown .tiptap'))
                if (note.scrollHeight > note.clientHeight + 2) faults.push(`a note is cut off: ${note.innerText}`);
            return faults;
        }""",
        [*CANVAS, _workflow(name)["extra"]["ds"]["scale"]],
    )


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_opens_from_templates_and_runs(page: Page, prepared: Client, name: str) -> None:
    open_template(page, name)
    assert page.evaluate(MISSING) == []
    assert faults_of_layout(page, name) == []
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}_opened.png")
    before = prepared.history()
    page.locator('[data-testid="queue-button"]').first.click()
    entry = finished(prepared, before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    page.wait_for_timeout(1500)
    page.screenshot(path=SHOTS / f"{name}_run.png")
    assert faults_of_layout(page, name) == []
    shown = page.evaluate("Object.values(window.app.nodeOutputs).flatMap(o => o?.images ?? []).length")
    assert shown >= 1, "the page shows no image"


def test_metadata_of_a_file_is_shown_as_text(page: Page, prepared: Client, base: Path) -> None:
    """The page reads a node's text as HTML: a file from elsewhere could run a script in it."""
    title = '<img src="none" onerror="window.ran = true"> _A_ *b* & www.c.org/"d'
    tensors = {f"lora_unet_x.lora_{role}.weight": torch.ones(2, 2) for role in ("up", "down")}
    save_file(tensors, base / "models" / "loras" / "titled.safetensors", {"modelspec.title": title})
    before = prepared.history()
    page.evaluate(
        """() => {
            const {graph} = window.app, lora = LiteGraph.createNode('DiffLoRALoadLoRA');
            const saved = LiteGraph.createNode('DiffLoRASave');
            graph.clear();
            graph.add(lora);
            graph.add(saved);
            lora.connect(0, saved, 0);
            lora.widgets[0].value = 'titled.safetensors';
            window.app.queuePrompt(0);
        }"""
    )
    assert finished(prepared, before)["status"]["status_str"] == "success"
    page.get_by_text("modelspec.title: ").wait_for(timeout=10_000)
    shown = page.get_by_text("modelspec.title: ").inner_text()
    assert title in " ".join(shown.split())
    assert not page.evaluate("window.ran")


def test_first_workflow_is_open_at_the_address_of_serve(browser: Browser, prepared: Client) -> None:
    with opened(browser, prepared.url + FIRST_PAGE) as page:
        wait_for_template(page, next(iter(WORKFLOWS)))
        assert page.evaluate("window.app.graph._nodes.filter(n => n.title === 'Your picture').length") == 1


def test_widgets_of_personalize_are_those_inside(page: Page) -> None:
    """What the beginner sets on the node arrives in the prompt, at the nodes inside."""
    open_template(page, next(iter(WORKFLOWS)))
    widgets = page.evaluate(
        """() => {
            const node = window.app.graph._nodes.find(n => n.title.startsWith('Personalize'));
            node.widgets.find(w => w.name.endsWith('strength')).value = 0.7;
            return node.widgets.map(w => [w.label ?? w.name.split(': ').at(-1), w.value]);
        }"""
    )
    assert dict(widgets) == {
        "strength": 0.7,
        "seed": 1,
        "checkpoint": "miniature.safetensors",
        "model_pack": "auto",
        "clip_name": "miniature",
    }
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (applied,) = (node for node in prompt.values() if node["class_type"] == "DiffLoRAApply")
    assert applied["inputs"]["strength"] == 0.7


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
            const types = [node.inputs, node.outputs].map(slots => slots.map(slot => slot.type));
            return [...types, node.subgraph._nodes.map(n => n.type), node.widgets.length];
        }"""
    )
    inputs, outputs, inside, widgets = node
    assert inputs[:2] == ["IMAGE", "MODEL"]  # newer pages add an input for each widget
    assert outputs == ["MODEL", "LORA_MODEL"]
    assert len(inside) == 8
    assert widgets == 5
    assert page.evaluate("types => types.filter(t => !(t in LiteGraph.registered_node_types))", inside) == []


def test_help_page_shows_its_image(page: Page) -> None:
    """Opened by the information button above a selected node; the page is Markdown with an image beside it."""
    open_template(page, "2-Portrait-from-several-pictures")
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


def test_help_pages_are_not_clipped(page: Page, prepared: Client) -> None:
    """In the panel at its own width, nothing is wider than the page's column."""
    nodes = {name for name, node in prepared.object_info().items() if node["category"] == "DiffLoRA"}
    wide = {}
    for name in nodes:
        page.evaluate(
            """name => {
                const {graph, canvas} = window.app, node = LiteGraph.createNode(name);
                graph.clear();
                graph.add(node);
                canvas.centerOnNode(node);
                canvas.selectItems([node]);
                canvas.setDirty(true, true);
            }""",
            name,
        )
        page.locator("[data-testid=info-button]").first.click()
        image = page.wait_for_selector(f"img[src$='{name}.png']", timeout=10_000)
        assert image is not None
        column, needed = image.evaluate(
            "image => (column => [column.clientWidth, column.scrollWidth])(image.closest('p').parentElement)"
        )
        if needed > column:
            wide[name] = f"{needed} of {column} pixels"
    assert nodes
    assert wide == {}


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
