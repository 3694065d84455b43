"""The pack in a real ComfyUI: it loads, and its nodes have the inputs and outputs that they should."""

import requests

from miniature.comfyui.host import PACK_NAME, Host, find_host
from miniature.comfyui.workflows import WORKFLOWS
from miniature.demo.node_reference import PATH, node_reference
from tests.node_sockets import NODES
from training.comfyui_client import Client

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def test_every_node_is_registered_and_documented(client: Client) -> None:
    info = client.object_info()
    assert {name for name, node in info.items() if node["category"] == "DiffLoRA"} == set(NODES)
    for name, (outputs, sockets) in NODES.items():
        node = info[name]
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert node["output"] == outputs
        assert {form for form, _ in inputs.values() if isinstance(form, str)} - WIDGETS == sockets
        assert all(options["tooltip"] for _, options in inputs.values()), f"{name}: an input without a tooltip"
        assert node["description"]
        assert node["category"] == "DiffLoRA"


def test_choices_are_what_is_installed(client: Client) -> None:
    info = client.object_info()
    checkpoints = info["DiffLoRALoad"]["input"]["required"]["checkpoint"][1]["options"]
    assert {"miniature.safetensors", "page.safetensors"} <= set(checkpoints)
    assert "miniature" in info["DiffLoRALoadFaceAnalysis"]["input"]["required"]["model_pack"][1]["options"]
    assert "CPU" in info["DiffLoRALoadFaceAnalysis"]["input"]["required"]["provider"][1]["options"]


def test_workflow_is_among_the_templates(host: Host) -> None:
    templates = requests.get(f"{host.url}/api/workflow_templates", timeout=30).json()
    assert sorted(templates[PACK_NAME]) == sorted(WORKFLOWS)


def test_nothing_failed_while_loading(host: Host) -> None:
    log = host.log()
    assert "(IMPORT FAILED)" not in log


def test_host_folder_is_not_written_to(host: Host, base: object) -> None:
    folder = find_host()
    assert not (folder / "custom_nodes" / PACK_NAME).exists()
    assert f"Setting user directory to: {base}" in host.log()


def test_node_reference_equals_the_schemas(client: Client) -> None:
    """docs/nodes.md describes the nodes as the host does. After a change run `python -m miniature node-docs`."""
    assert PATH.read_text(encoding="utf-8") == node_reference(client.object_info())
