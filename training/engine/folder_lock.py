"""One folder, one writer: a lock that says who holds it.

The operating system gives up the lock of a process that ends, however it ends, so a killed holder's is free at once.
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
"""Files in the folder: the lock, and who holds it."""


MAX_COMMAND = 200
"""Characters of the holder's command that are shown."""


class FolderInUseError(RuntimeError):
    """Another process writes to the folder."""


@contextmanager
def folder_lock(folder: Path, advice: str = "") -> Iterator[None]:
    """Be the only process that writes to a folder.

    Args:
        folder: Is made.
        advice: Ends the error message.

    Raises:
        FolderInUseError: Another process is; it is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"{folder} is being written by another process: {_describe_holder(folder)}. Wait until it has ended, "
            f"or stop it, then run the same command again{advice}"
        ) from None
    try:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": " ".join(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]).split())[:MAX_COMMAND],
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with replacing(folder / HOLDER) as partial:
            partial.write_text(json.dumps(holder, ensure_ascii=False), encoding="utf-8")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def run_lock(output: Path) -> Iterator[None]:
    """Be the only training run that writes to an output folder. Of several launched processes the first holds the lock.

    Raises:
        FolderInUseError: Another run does; it is named.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
    else:
        with folder_lock(output, ", or choose another output folder"):
            yield


def _describe_holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "one that has just started or is about to end"
