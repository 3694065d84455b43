"""ComfyUI's page in a real browser: Debian's chromium, or another Chrome, driven by Playwright."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from playwright.sync_api import Browser, Page, sync_playwright

from training.comfyui_client import Client

from .workflows import FOLDER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Path of an installed browser, None if there is none."""
SECONDS = 300.0
"""That a workflow may take."""
READY = "window.app?.vueAppReady && window.app.extensionManager.workflow.activeWorkflow && window.app.api.clientId"
"""After `vueAppReady` the page still puts its first workflow in place of what its graph holds; and of prompts queued
before the server's first message has told the page its client_id, the server sends it no results."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser.

    Raises:
        FileNotFoundError: None is installed.
    """
    if CHROMIUM is None:
        raise FileNotFoundError("no chromium: install it, on Debian apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def settings(url: str, **values: Any) -> None:
    """Set the server's settings for the page, such as Locale="zh"; names without their prefix `Comfy.`."""
    for name, value in values.items():
        requests.post(f"{url}/settings/Comfy.{name}", json=value, timeout=30).raise_for_status()


@contextmanager
def opened(browser: Browser, url: str, **page: Any) -> Iterator[Page]:
    """ComfyUI's page, ready for use.

    Args:
        browser: A browser of `chromium`.
        url: Of the server.
        page: Options of the browser's page, such as its viewport.
    """
    tab = browser.new_page(**{"viewport": {"width": 1600, "height": 1000}, **page})
    tab.goto(url)
    tab.wait_for_function(READY, timeout=90_000)
    yield tab
    tab.close()


def load_graph(page: Page, workflow: Mapping[str, Any]) -> None:
    """Show a workflow as the browser saves it."""
    page.evaluate("workflow => window.app.loadGraphData(workflow)", dict(workflow))
    count = len(workflow["nodes"])
    page.wait_for_function("count => window.app.graph._nodes.length === count", arg=count, timeout=30_000)


def wait_for_template(page: Page, name: str) -> None:
    """Wait until the page shows an example workflow, which was opened from the Templates or by its address."""
    count = len(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"])
    page.wait_for_function("count => window.app.graph._nodes.length === count", arg=count, timeout=30_000)
    page.wait_for_timeout(1500)


def run_shown(page: Page, client: Client) -> None:
    """Run the workflow that the page shows, and wait until it shows the results.

    Raises:
        PromptError: A node failed.
        TimeoutError: It did not end within `SECONDS`.
    """
    before = client.history()
    page.evaluate("window.app.queuePrompt(0)")
    end = time.monotonic() + SECONDS
    while not (new := client.history() - before):
        if time.monotonic() > end:
            raise TimeoutError(f"the workflow did not end within {SECONDS:.0f} s")
        time.sleep(0.2)
    client.wait(new.pop())
    page.wait_for_timeout(2000)
