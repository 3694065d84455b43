"""docs/nodes.md describes the nodes as the running host does."""

from miniature.comfyui.client import Client
from miniature.demo.node_reference import PATH, node_reference


def test_node_reference_equals_the_schemas(client: Client) -> None:
    """After a change run `python -m miniature node-docs`."""
    assert PATH.read_text(encoding="utf-8") == node_reference(client.object_info())
