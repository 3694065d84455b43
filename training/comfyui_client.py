"""ComfyUI's HTTP interface: upload images, queue a prompt, wait for it, download images."""

import io
import time
import uuid
from dataclasses import dataclass
from typing import Any

import requests
from PIL import Image

Prompt = dict[str, dict[str, Any]]
"""ComfyUI's API format of a workflow: node id to class_type, inputs and _meta."""


class PromptError(RuntimeError):
    """ComfyUI refused a prompt or a node failed; the message is the node's own."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        """Keep how long the prompt was executed, as the server measured it; 0 if it was refused."""
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Result:
    """A finished prompt."""

    outputs: dict[str, dict[str, Any]]
    """What each node displayed, by node id: `images`, `text` and the like."""
    seconds: float
    """Duration of the execution as the server measured it."""


class Client:
    """A connection to one server."""

    def __init__(self, url: str) -> None:
        """Use the server at `url`, for example http://127.0.0.1:8188."""
        self.url = url
        self.id = uuid.uuid4().hex
        """Without a client's id, the server does not report what a cached node displayed."""
        self._session = requests.Session()

    def object_info(self) -> dict[str, dict[str, Any]]:
        """Describe every node class the server knows."""
        return self._get("object_info").json()

    def upload(self, image: Image.Image, name: str, folder: str = "") -> str:
        """Put an image into a folder of the server's input folder and return its name there, as LoadImage takes it."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files = {"image": (name, buffer.getvalue(), "image/png")}
        data = {"overwrite": "true", "subfolder": folder}
        answer = self._session.post(f"{self.url}/upload/image", files=files, data=data, timeout=60)
        answer.raise_for_status()
        return answer.json()["name"]

    def queue(self, prompt: Prompt) -> str:
        """Queue a prompt and return its id.

        Raises:
            PromptError: The server finds the prompt, or a part of it, invalid; the message holds all of its errors.
        """
        answer = self._session.post(f"{self.url}/prompt", json={"prompt": prompt, "client_id": self.id}, timeout=60)
        if answer.status_code == 400:
            values = answer.json()
            raise PromptError(_errors(values["error"]["message"], values["node_errors"]))
        answer.raise_for_status()
        values = answer.json()
        if node_errors := values["node_errors"]:  # the server would run what is left, and show other images
            self._cancel(values["prompt_id"])
            raise PromptError(_errors("A part of the prompt failed validation", node_errors))
        return values["prompt_id"]

    def run(self, prompt: Prompt, timeout: float = 300.0) -> Result:
        """Queue a prompt and wait for it.

        Raises:
            PromptError: The prompt was refused or interrupted, or a node failed.
            TimeoutError: It was not done after `timeout` seconds.
        """
        return self.wait(self.queue(prompt), timeout)

    def wait(self, prompt_id: str, timeout: float = 300.0) -> Result:
        """Wait for a queued prompt.

        Raises:
            PromptError: It was interrupted, or a node failed.
            TimeoutError: It was not done after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if result := self.poll(prompt_id):
                return result
            time.sleep(0.02)
        raise TimeoutError(f"prompt {prompt_id} was not done after {timeout:.0f} s")

    def poll(self, prompt_id: str) -> Result | None:
        """Return the result of a queued prompt, or None while it is waiting or running.

        Raises:
            PromptError: It was interrupted, or a node failed.
        """
        entry = self._get(f"history/{prompt_id}").json().get(prompt_id)
        return _result(entry) if entry else None

    def history(self) -> set[str]:
        """Ids of all prompts that have ended, of any client."""
        return set(self._get("history").json())

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what is running, as the button in the browser does; with an id, only if it is this prompt."""
        body = {} if prompt_id is None else {"prompt_id": prompt_id}
        self._session.post(f"{self.url}/interrupt", json=body, timeout=60).raise_for_status()

    def _cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it."""
        body = {"delete": [prompt_id]}
        self._session.post(f"{self.url}/queue", json=body, timeout=60).raise_for_status()
        self.interrupt(prompt_id)

    def images(self, result: Result, node: str) -> list[Image.Image]:
        """Fetch the images that a node of a finished prompt saved or previewed."""
        return [self._image(place) for place in result.outputs[node]["images"]]

    def free(self) -> None:
        """Make the server forget every result and unload every model."""
        answer = self._session.post(f"{self.url}/free", json={"unload_models": True, "free_memory": True}, timeout=60)
        answer.raise_for_status()
        time.sleep(0.5)  # the server only sets a flag, and acts between two prompts

    def _image(self, place: dict[str, str]) -> Image.Image:
        answer = self._get("view", **place)
        return Image.open(io.BytesIO(answer.content)).convert("RGB")

    def _get(self, path: str, **query: str) -> requests.Response:
        answer = self._session.get(f"{self.url}/{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer


def _result(entry: dict[str, Any]) -> Result:
    messages = dict(entry["status"]["messages"])
    for kind in ("execution_error", "execution_interrupted"):
        if kind in messages:
            message = messages[kind]
            text = message.get("exception_message", "interrupted").strip()
            seconds = (message["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
            raise PromptError(f"{message.get('node_type')}: {text}", seconds)
    start, end = messages["execution_start"]["timestamp"], messages["execution_success"]["timestamp"]
    return Result(entry["outputs"], (end - start) / 1000)


def _errors(message: str, node_errors: dict[str, dict[str, Any]]) -> str:
    lines = [message]
    for node in node_errors.values():
        lines += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
    return "\n".join(lines)
