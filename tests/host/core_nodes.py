"""Core nodes whose inputs and outputs differ between versions of ComfyUI."""

from typing import Any

from miniature.comfyui.api_prompt import ApiPrompt
from training.comfyui_client import Client


def add_core(client: Client, graph: ApiPrompt, title: str, class_type: str, **inputs: Any) -> ApiPrompt:
    """Add a node to the prompt, with defaults for required widgets that are not given: newer hosts add some."""
    required = client.object_info()[class_type]["input"]["required"]
    options = {name: (*form, {})[1] for name, form in required.items()}
    defaults = {name: found["default"] for name, found in options.items() if "default" in found}
    return graph.add(title, class_type, **defaults | inputs)


def output_of_type(client: Client, graph: ApiPrompt, title: str, kind: str) -> list[Any]:
    """Return a link to the only output of this type of the node with this title."""
    class_type = graph.prompt[graph.id(title)]["class_type"]
    return graph.output(title, client.object_info()[class_type]["output"].index(kind))
