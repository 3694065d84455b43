"""Images by a workflow that is queued on a running ComfyUI: any pack is compared by its own graph."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from requests import RequestException

from difflora_core.images import read_image
from training.comfyui_client import Client, PromptError
from training.lora_dataset.fingerprints import Fingerprint, hash_files, hash_value

from ..method_settings import MethodSettings
from ..people_folders import EvaluatedPerson, seen_references
from .method import ImageRequest, MadeImage
from .workflow_file import WorkflowFile

UPLOADS = "difflora_evaluation"
"""Folder of the server's input folder for reference images."""
SEEDS = 2**32
"""Some nodes take no larger seed."""


class ComfyUIWorkflow:
    """A workflow file and a server."""

    def __init__(self, settings: MethodSettings, subject: str, negative: str) -> None:
        """Read the workflow.

        Args:
            settings: Of the kind comfyui.
            subject: In place of {person} in prompts.
            negative: In place of {negative}.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is none that can be run, see `WorkflowFile.read`.
        """
        self.settings, self.subject, self.negative = settings, subject, negative
        self.workflow = WorkflowFile.read(settings.given_path)
        self.references: int | None = self.workflow.references or None
        self.placement = (
            f'"{subject}" in place of {{person}} in {{prompt}}; base model, sampler, steps and size are those of '
            f"{settings.given_path.name}"
        )

    def fingerprint(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the workflow, the prompts' words and the references.

        Raises:
            ValueError: The person has too few references.
        """
        return {
            "workflow": hash_value(self.workflow.nodes),
            "method.subject": self.subject,
            "method.output_node": self.settings.output_node,
            "settings.negative": self.negative,
            "references": hash_files(seen_references(person, self.workflow.references)),
        }

    @cached_property
    def client(self) -> Client:
        """The server, which knows all node classes of the workflow.

        Raises:
            RuntimeError: It lacks one, or does not answer.
        """
        client = Client(self.settings.server.rstrip("/"))
        with self._answers():
            known = client.object_info()
        self.workflow.check_classes(known)
        return client

    def check(self) -> None:
        """Check that the server can run the workflow, before anything is generated.

        Raises:
            RuntimeError: It lacks a node class, or does not answer.
        """
        self.client  # noqa: B018 # connecting is the check

    @contextmanager
    def _answers(self) -> Iterator[None]:
        server = self.settings.server
        try:
            yield
        except TimeoutError as error:
            raise RuntimeError(
                f"{self.workflow.path} did not end on {server} ({error}): raise `timeout`, or see what the server does"
            ) from error
        except RequestException as error:
            problem = " ".join(str(error).split())[:200]
            raise RuntimeError(
                f"ComfyUI at {server} does not answer ({problem}): start it, or change `server`"
            ) from error
        except PromptError as error:
            raise RuntimeError(f"{self.workflow.path} failed on {server}: {error}") from error

    def release(self) -> None:
        """Free nothing: the models are the server's."""

    @contextmanager
    def prepare(self, person: EvaluatedPerson) -> Iterator["ReadyWorkflow"]:
        """Give the references to the server, under names by their content: it keeps results by names.

        Raises:
            ValueError: A reference can't be read.
            RuntimeError: The server does not answer, or lacks a node class.
        """
        values: dict[str, str | int] = {"negative": self.negative}
        for number, path in enumerate(seen_references(person, self.workflow.references), start=1):
            image = read_image(path)
            name = f"{sha256(image.tobytes()).hexdigest()[:24]}.png"
            with self._answers():
                uploaded = f"{UPLOADS}/{self.client.upload(image, name, UPLOADS)}"
            values |= {f"reference_{number}": uploaded} | ({"reference": uploaded} if number == 1 else {})
        yield ReadyWorkflow(self, values)

    def make(self, values: Mapping[str, str | int]) -> MadeImage:
        """Run the workflow.

        Raises:
            RuntimeError: The server does not answer or takes longer than `timeout`, a node failed, or it is not clear
                which image is meant.
        """
        with self._answers():
            result = self.client.run(self.workflow.filled(values), self.settings.timeout)
            node = self.workflow.output_node(self.settings.output_node, result.outputs)
            return MadeImage(self.client.images(result, node)[0], result.seconds)


class ReadyWorkflow:
    """A workflow with a person's references."""

    facts: Mapping[str, Any] = MappingProxyType({})
    """The server measures prompts only: what a person takes is in the first image's seconds."""

    def __init__(self, method: ComfyUIWorkflow, values: dict[str, str | int]) -> None:
        self.method, self.values = method, values

    def generate(self, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        """Queue one prompt after another.

        Raises:
            RuntimeError: See `ComfyUIWorkflow.make`.
        """
        return [self.method.make(self.values | self._own(request)) for request in requests]

    def _own(self, request: ImageRequest) -> dict[str, str | int]:
        return {"prompt": request.prompt.of(self.method.subject), "seed": request.noise_seed % SEEDS}
