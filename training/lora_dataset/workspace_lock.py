"""One workspace, one writer. Workers of a cluster work under the lock of the process that started them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.engine.folder_lock import folder_lock


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Be the only process that writes to a workspace.

    Raises:
        FolderInUseError: Another one is; it is named.
    """
    with folder_lock(workspace, "; `dataset status` works in the meantime"):
        yield
