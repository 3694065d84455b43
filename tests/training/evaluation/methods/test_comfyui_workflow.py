"""Images by a workflow on a server, which is played here; tests/host has a real one."""

import json
from typing import Any

import pytest
import requests
from PIL import Image

from tests.training.evaluation.small_evaluation import SIZE, SmallEvaluation
from training.comfyui_client import PromptError, Result
from training.evaluation.generation.image_workers import WorkerDevice
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods import comfyui_workflow

NODES: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{reference}"}},
    "2": {"class_type": "Paint", "inputs": {"image": ["1", 0], "text": "{prompt}", "seed": "{seed}"}},
}


class Server:
    """Paints an image as bright as its seed says."""

    classes = ("LoadImage", "Paint")
    uploads: dict[str, Image.Image]
    prompts: list[dict[str, Any]]
    error: Exception | None = None

    def __init__(self) -> None:
        self.uploads, self.prompts = {}, []

    def __call__(self, url: str) -> "Server":
        self.url = url
        return self

    def object_info(self) -> dict[str, Any]:
        return {name: {} for name in self.classes}

    def upload(self, image: Image.Image, name: str, folder: str = "") -> str:
        self.uploads[f"{folder}/{name}"] = image
        return name

    def run(self, prompt: dict[str, Any], timeout: float) -> Result:
        if self.error:
            raise self.error
        assert prompt["1"]["inputs"]["image"] in self.uploads
        self.prompts.append(prompt["2"]["inputs"])
        return Result({"2": {"images": [{}]}}, 1.5)

    def images(self, result: Result, node: str) -> list[Image.Image]:
        return [Image.new("RGB", (SIZE, SIZE), (self.prompts[-1]["seed"] % 256, 0, 0))]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(comfyui_workflow, "Client", server)
    return server


@pytest.fixture
def methods(small: SmallEvaluation) -> dict[str, MethodSettings]:
    (small.folder / "workflow.json").write_text(json.dumps(NODES))
    return {"pack": MethodSettings("comfyui", small.folder / "workflow.json", server="http://127.0.0.1:1/")}


def test_a_workflow_makes_the_images(small: SmallEvaluation, server: Server, methods: dict) -> None:
    small.evaluation(methods=methods).run()
    assert server.url == "http://127.0.0.1:1"
    assert len(small.images()) == len(server.prompts) == 12
    assert len(server.uploads) == 3
    assert {entry["text"] for entry in server.prompts} == {"a person in red", "a person from above"}
    assert all(0 <= entry["seed"] < 2**32 for entry in server.prompts)
    assert small.report()["methods"]["pack"]["cost"]["image_seconds"] == 1.5
    assert small.report()["methods"]["pack"]["placement"].endswith("workflow.json; sees the first reference")
    small.evaluation(methods=methods).run()
    assert len(server.prompts) == 12


def test_several_processes_leave_workflows_to_the_commands_own(
    small: SmallEvaluation, server: Server, methods: dict
) -> None:
    small.evaluation(methods=methods).run([WorkerDevice("cpu", 1)] * 2)
    assert [entry["text"] for entry in server.prompts[:2]] == ["a person in red", "a person from above"]
    assert len(small.images()) == len(server.prompts) == 12


def test_a_missing_pack_is_named_before_anything_is_queued(
    small: SmallEvaluation, server: Server, methods: dict
) -> None:
    server.classes = ("LoadImage",)
    evaluation = small.evaluation(methods={"none": MethodSettings("none"), **methods})
    assert "the server has no node class Paint" in "\n".join(evaluation.describe())
    with pytest.raises(RuntimeError, match="the server has no node class Paint"):
        evaluation.run()
    assert not server.prompts
    assert not small.images()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (requests.ConnectionError("refused"), r"ComfyUI at http://127\.0\.0\.1:1/ does not answer \(refused\)"),
        (TimeoutError("not done after 600 s"), r"did not end on .*\(not done after 600 s\): raise `timeout`"),
        (PromptError("Paint: no paint"), r"workflow\.json failed on http.*Paint: no paint"),
    ],
)
def test_a_server_that_fails_stops_the_run(
    small: SmallEvaluation, server: Server, methods: dict, error: Exception, message: str
) -> None:
    server.error = error
    with pytest.raises(RuntimeError, match=message):
        small.evaluation(methods=methods).run()
