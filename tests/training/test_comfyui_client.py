"""ComfyUI's answers to a prompt, which are played here; tests/host has a real server."""

import json
from typing import Any

import pytest
import requests

from training.comfyui_client import Client, PromptError

INVALID = {
    "3": {
        "class_type": "CheckpointLoaderSimple",
        "errors": [{"message": "Value not in list", "details": "ckpt_name: 'gone.safetensors' not in []"}],
        "dependent_outputs": ["9"],
    }
}
"""As the server says it of an output that needs a missing checkpoint."""


class Session:
    """Answers every prompt alike, and keeps what was posted."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        self.status, self.answer = status, answer
        self.posts: list[tuple[str, dict[str, Any]]] = []

    def post(self, url: str, json: dict[str, Any], timeout: float) -> requests.Response:
        path = url.removeprefix("http://server")
        self.posts.append((path, json))
        return response(self.status, self.answer) if path == "/prompt" else response(200, {})


def response(status: int, values: dict[str, Any]) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content = status, json.dumps(values).encode()
    return made


def client(status: int, **answer: Any) -> tuple[Client, Session]:
    made, session = Client("http://server"), Session(status, answer)
    made._session = session  # type: ignore[assignment]
    return made, session


def test_a_valid_prompt_has_an_id() -> None:
    made, session = client(200, prompt_id="one", node_errors={})
    assert made.queue({}) == "one"
    assert [path for path, _ in session.posts] == ["/prompt"]


def test_an_invalid_prompt_is_an_error_with_all_that_the_server_says() -> None:
    made, _ = client(400, error={"message": "Prompt outputs failed validation"}, node_errors=INVALID)
    with pytest.raises(PromptError, match=r"(?s)outputs failed validation.*CheckpointLoaderSimple: Value not in list"):
        made.queue({})


def test_a_prompt_that_is_invalid_in_part_is_an_error_and_is_not_run() -> None:
    """The server would run the outputs that are left: an image of a preview would be taken for the prompt's."""
    made, session = client(200, prompt_id="one", node_errors=INVALID)
    with pytest.raises(PromptError, match=r"(?s)A part of the prompt .*CheckpointLoaderSimple: .*gone\.safetensors"):
        made.queue({})
    assert session.posts[1:] == [("/queue", {"delete": ["one"]}), ("/interrupt", {"prompt_id": "one"})]
