"""The workflows of other packs that ship: what of them a ComfyUI without these packs can check."""

import re
from pathlib import Path

import pytest

from training.comfyui_client import Client
from training.engine.settings import read_settings
from training.evaluation import settings as evaluation_settings
from training.evaluation.methods.workflow_file import WorkflowFile
from training.evaluation.settings import EvaluationSettings

FOLDER = Path(evaluation_settings.__file__).parent
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.json"))
PACKS = {
    "hyperlora": "HyperLoRA",
    "ip_adapter_faceid": "IPAdapter",
    "photomaker_v2": "PhotoMaker",
    "pulid": "Pulid",
}
"""What the names of each workflow's own nodes contain."""


@pytest.fixture(scope="module")
def known(client: Client) -> dict:
    return client.object_info()


def test_all_are_here() -> None:
    assert [path.stem for path in WORKFLOWS] == sorted(PACKS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_placeholder_is_used_and_every_link_leads_to_a_node(path: Path) -> None:
    workflow = WorkflowFile.read(path)
    assert workflow.placeholders == {"reference", "reference_2", "reference_3", "prompt", "negative", "seed"}
    used = set()
    for node in workflow.nodes.values():
        links = [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        assert set(links) <= workflow.nodes.keys()
        used |= set(links)
    (last,) = workflow.nodes.keys() - used
    assert workflow.nodes[last]["class_type"] == "SaveImage"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_core_nodes_have_their_inputs_and_the_others_are_the_packs(path: Path, known: dict) -> None:
    for node in WorkflowFile.read(path).nodes.values():
        if (description := known.get(node["class_type"])) is None:
            assert PACKS[path.stem] in node["class_type"]
            continue
        required, optional = (set(description["input"].get(kind, ())) for kind in ("required", "optional"))
        assert required <= set(node["inputs"]) <= required | optional, node["class_type"]


def test_the_lines_of_the_settings_name_them(tmp_path: Path) -> None:
    text = (FOLDER / "configs" / "sdxl.yaml").read_text()
    lines = re.sub(r"^  # (?=.*workflows/)", "  ", text, flags=re.MULTILINE).replace("../", f"{FOLDER}/")
    (tmp_path / "sdxl.yaml").write_text(lines)
    methods = read_settings(EvaluationSettings, tmp_path / "sdxl.yaml").methods
    found = {method.path for method in methods.values() if method.kind == "comfyui"}
    assert found == set(WORKFLOWS)
    assert methods["PhotoMaker v2"].subject == "person img"
