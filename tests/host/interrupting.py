"""Interrupting a prompt on a real ComfyUI in the middle of one of its nodes."""

import asyncio
import json
from dataclasses import dataclass

import aiohttp  # a requirement of every ComfyUI
import pytest

from miniature.comfyui.api_prompt import ApiPrompt
from training.comfyui_client import Client, PromptError

ENDS = ("execution_interrupted", "execution_success", "execution_error")
SECONDS = 240.0
"""In which the node has to begin, and then to end: an error message in place of a test without end."""


@dataclass(frozen=True)
class Interrupted:
    """How a prompt ended."""

    error: str
    """Class of the node that was interrupted, and that it was."""
    last_step: int
    """The last step of the node's progress bar that the server reported."""
    steps: int
    """How many the progress bar has."""


def interrupt_at_step(client: Client, graph: ApiPrompt, title: str, step: int = 2) -> Interrupted:
    """Queue a prompt and interrupt it as soon as the progress bar of the node titled so is at a step.

    Raises:
        TimeoutError: The node wasn't there, or the prompt didn't end, in time.
    """
    return asyncio.run(asyncio.wait_for(_interrupt_at_step(client, graph, graph.id(title), step), SECONDS))


async def _interrupt_at_step(client: Client, graph: ApiPrompt, node: str, step: int) -> Interrupted:
    last, steps, sent = 0, 0, False
    # The server reports progress to the client that queued the prompt
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{client.url}/ws?clientId={client.id}") as socket,
    ):
        prompt_id = client.queue(graph.prompt)
        async for message in socket:
            event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {"type": "image"}
            data = event.get("data", {})
            if event["type"] in ENDS and data["prompt_id"] == prompt_id:
                break
            if event["type"] == "progress" and (data["prompt_id"], data["node"]) == (prompt_id, node):
                last, steps = data["value"], data["max"]
                if last >= step and not sent:
                    client.interrupt(prompt_id)
                    sent = True
    with pytest.raises(PromptError) as error:
        client.wait(prompt_id)
    return Interrupted(str(error.value), last, steps)
