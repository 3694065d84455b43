"""Text that a node shows in itself."""

from server import PromptServer


def show(text: str, node_id: str | None) -> None:
    """Show `text` inside the node while it runs; without a browser nobody listens and nothing happens."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)
