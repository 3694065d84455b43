"""One workspace, one writer: a lock that says who holds it.

The operating system gives up the lock of a process that ends, however it ends, so a killed holder's is free at once.
Workers of a cluster work under the lock of the process that started them.
"""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from difflora_core.files import replacing

LOCK, HOLDER = ".lock", ".lock.json"
"""Files in the workspace: the lock, and who holds it."""


MAX_COMMAND = 200
"""Characters of the holder's command that are shown."""


class WorkspaceInUseError(RuntimeError):
    """Another process writes to the workspace."""


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Be the only process that writes to a workspace.

    Raises:
        WorkspaceInUseError: Another one is; it is named.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise WorkspaceInUseError(
            f"{workspace} is being written by another process: {_describe_holder(workspace)}. Wait until it has ended, "
            "or stop it, then run the same command again; `dataset status` works in the meantime"
        ) from None
    try:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": " ".join(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]).split())[:MAX_COMMAND],
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with replacing(workspace / HOLDER) as partial:
            partial.write_text(json.dumps(holder, ensure_ascii=False), encoding="utf-8")
        yield
    finally:
        (workspace / HOLDER).unlink(missing_ok=True)
        lock.release()


def _describe_holder(workspace: Path) -> str:
    try:
        holder = json.loads((workspace / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "one that has just started or is about to end"
