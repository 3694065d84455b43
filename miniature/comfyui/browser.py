"""ComfyUI's page in a real browser: Debian's chromium, or another Chrome, driven by Playwright."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Path of an installed browser, None if there is none."""
READY = "window.app && window.app.graph && window.app.vueAppReady"


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
