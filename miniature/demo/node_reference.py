"""Write what repeats the nodes' schemas, from a running ComfyUI: `python -m miniature node-docs`.

docs/nodes.md is the reference of all nodes, locales/en/nodeDefs.json the page's English texts, from which translations
start.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from miniature.paths import ROOT

PATH = ROOT / "docs" / "nodes.md"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
CATEGORY = "DiffLoRA"
INSTALLED = {"checkpoint", "clip_name", "identity", "image_folder", "lora_name", "model_pack", "provider"}
"""Inputs whose choices depend on the machine: what lies in the models folder, what onnxruntime offers."""
TITLE = """\
# Nodes

All nodes of the pack, in the order of the pipeline: from reference images to a LoRA to a model with it. In ComfyUI
they are in the category *DiffLoRA*. Each has a help page with good values and error messages, linked here and in
ComfyUI's node library (question mark).

Generated from the nodes' schemas by `python -m miniature node-docs`; edit the schemas in `nodes/`, not this file.
"""

Node = Mapping[str, Any]


def node_reference(object_info: Mapping[str, Node]) -> str:
    """Describe the pack's nodes as Markdown.

    Args:
        object_info: What ComfyUI answers to /object_info; the nodes keep its order.

    Returns:
        The whole page.
    """
    nodes = {name: node for name, node in object_info.items() if node["category"] == CATEGORY}
    contents = [f"- [{node['display_name']}](#{_anchor(node['display_name'])})" for node in nodes.values()]
    return "\n".join([TITLE, *contents, *(_section(name, node) for name, node in nodes.items())]) + "\n"


def write_node_reference(object_info: Mapping[str, Node]) -> None:
    """Write the page and the English texts."""
    PATH.write_text(node_reference(object_info), encoding="utf-8")
    texts = {name: texts_of(node) for name, node in object_info.items() if node["category"] == CATEGORY}
    ENGLISH.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def inputs_of(node: Node) -> dict[str, Node]:
    """Return the options of every input, sockets included, by name, in the order in which the node shows them."""
    groups = (node["input"].get(group, {}) for group in ("required", "optional"))
    return {name: options for group in groups for name, (_, options) in group.items()}


def texts_of(node: Node) -> dict[str, Any]:
    """Return a node's texts in the form of a translation."""
    texts = {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: {"name": options.get("display_name", name), "tooltip": options["tooltip"]}
            for name, options in inputs_of(node).items()
        },
    }
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    named = {str(number): {"name": name, "tooltip": tooltip} for number, (name, tooltip) in enumerate(outputs)}
    return texts | ({"outputs": named} if named else {})


def _section(name: str, node: Node) -> str:
    outputs = zip(node["output_name"], node["output"], node["output_is_list"], node["output_tooltips"], strict=True)
    output_rows = [
        (f"`{label}`", f"list of {type}" if is_list else type, tooltip) for label, type, is_list, tooltip in outputs
    ]
    lines = [
        "",
        f"## {node['display_name']}",
        "",
        f"`{name}` · [help page](../web/docs/{name}.md)",
        "",
        node["description"],
        "",
        *_table(("Input", "Type", "Default", "Values", "Meaning"), list(_inputs(node))),
    ]
    if output_rows:
        lines += ["", *_table(("Output", "Type", "Meaning"), output_rows)]
    return "\n".join(lines)


def _inputs(node: Node) -> Iterator[tuple[str, ...]]:
    """Yield a row for each input, in the order in which the node shows them."""
    for group in ("required", "optional"):
        for name, (type, options) in node["input"].get(group, {}).items():
            meaning = options["tooltip"] + (" (Optional.)" if group == "optional" else "")
            default = _value(options["default"]) if "default" in options and name not in INSTALLED else ""
            shown = options.get("display_name") or name
            meaning = meaning if shown == name else f"Shown as *{shown}*. {meaning}"
            yield f"`{name}`", type.replace(",", " or "), default, _values(name, options), meaning


def _values(name: str, options: Mapping[str, Any]) -> str:
    """Describe which values an input takes: its choices, or its range and step."""
    if name in INSTALLED:
        return "what is installed"
    if "options" in options:
        return ", ".join(_value(choice) for choice in options["options"])
    if "min" not in options:
        return ""
    step = f", step {_number(options['step'])}" if "step" in options else ""
    return f"{_number(options['min'])} … {_number(options['max'])}{step}"


def _number(value: float) -> str:
    return "2⁶³ − 1" if value == 2**63 - 1 else f"{value:.10f}".rstrip("0").rstrip(".")


def _value(value: Any) -> str:
    return "on" if value is True else "off" if value is False else f"`{value}`"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in cells]


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
