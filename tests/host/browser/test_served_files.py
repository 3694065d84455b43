"""Help pages and translations, as the host serves them to the browser."""

import re

import pytest
import requests

from miniature.comfyui.host import PACK_NAME, Host
from miniature.demo.node_reference import Node, inputs_of, texts_of
from training.comfyui_client import Client

LANGUAGES = ("en", "zh")
SYNTAX = re.compile(r"[{}@|]")
"""Characters with a meaning in the syntax of the browser's translations."""


@pytest.fixture(scope="module")
def nodes(client: Client) -> dict[str, Node]:
    """The pack's nodes as object_info describes them."""
    return {name: node for name, node in client.object_info().items() if node["category"] == "DiffLoRA"}


@pytest.fixture(scope="module")
def translations(host: Host) -> dict[str, dict[str, Node]]:
    """Node texts by language; no other pack is installed."""
    served = requests.get(f"{host.url}/i18n", timeout=30).json()
    return {language: texts["nodeDefs"] for language, texts in served.items()}


def leaves(texts: Node, path: str = "") -> dict[str, str]:
    """Return every text of a translation by its path, for example `inputs.seed.tooltip`."""
    found: dict[str, str] = {}
    for key, value in texts.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found


def table_rows(page: str) -> list[list[str]]:
    """Return the cells of every row of a page's tables, without head and line."""
    rows = [line[1:-1].split("|") for line in re.findall(r"^\|.*\|$", page, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip() not in ("Input", "Output", "---")]


def test_every_node_has_a_help_page(host: Host, nodes: dict[str, Node]) -> None:
    """At the address that the browser derives from the name of the pack's folder."""
    assert nodes
    for name, node in nodes.items():
        assert node["python_module"] == f"custom_nodes.{PACK_NAME}"
        answer = requests.get(f"{host.url}/extensions/{PACK_NAME}/docs/{name}.md", timeout=30)
        assert answer.status_code == 200, f"{name} has no help page"
        page = answer.content.decode()
        assert page.startswith(f"# {node['display_name']}\n")
        rows = table_rows(page)
        assert {len(row) for row in rows} == {2}, f"{name}'s tables are too wide for the panel"
        in_tables = {re.sub("`|</?code>|<wbr>", "", row[0]) for row in rows}
        assert in_tables == {*inputs_of(node), *node["output_name"]}, (
            f"{name}'s page describes other inputs and outputs"
        )
        assert "## If it fails" in page
        assert f"]({name}.png)" in page
        image = requests.get(f"{host.url}/extensions/{PACK_NAME}/docs/{name}.png", timeout=30)
        assert image.headers["Content-Type"] == "image/png"


def test_no_scripts_are_shipped(host: Host) -> None:
    served = requests.get(f"{host.url}/extensions", timeout=30).json()
    assert not [path for path in served if PACK_NAME in path]


def test_english_texts_equal_the_schemas(nodes: dict[str, Node], translations: dict[str, dict[str, Node]]) -> None:
    assert translations["en"] == {name: texts_of(node) for name, node in nodes.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_complete(
    nodes: dict[str, Node], translations: dict[str, dict[str, Node]], language: str
) -> None:
    texts = leaves(translations[language])
    assert texts.keys() == leaves({name: texts_of(node) for name, node in nodes.items()}).keys()
    for path, text in texts.items():
        assert text.strip(), f"{language} has no text for {path}"
        assert not SYNTAX.search(text), f"{path}: {text!r} has characters of the translation syntax"


def test_chinese_texts_are_chinese(translations: dict[str, dict[str, Node]]) -> None:
    for path, text in leaves(translations["zh"]).items():
        if not path.endswith(".name"):  # names such as VAE and CLIP stay as they are
            assert re.search(r"[一-鿿]", text), f"{path} is not translated: {text!r}"
