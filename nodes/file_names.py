"""Files on disk: names of written ones, on every operating system and with a number of its own; whether one changed."""

import errno
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import folder_paths

MAX_BYTES = 255
"""Of one name, in UTF-8, on the usual file systems."""
FORBIDDEN = '<>:"|?*'
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
"""The system's errors of a folder that cannot be written to, or is a file."""
DEVICES = {"con", "prn", "aux", "nul"} | {port + number for port in ("com", "lpt") for number in "123456789¹²³"}
"""Names that Windows reserves, with any ending."""


def portable_prefix(prefix: str, default: str, appended: str) -> str:
    """Check the start of a file name, which may contain folders, before anything is computed or written.

    Args:
        prefix: As entered; slashes and backslashes separate folders.
        default: The name if there is none: the prefix is empty, or ends with a folder.
        appended: What the file name has beside, as long as it may get.

    Returns:
        The prefix with / between folders.

    Raises:
        ValueError: A folder or the name is impossible on some system; the message says what to change.
    """
    *folders, name = prefix.strip().replace("\\", "/").split("/")
    parts = [*folders, name or default]
    for part in parts:
        longest = MAX_BYTES - len(appended) if part is parts[-1] else MAX_BYTES
        if fault := _fault(part, longest):
            raise ValueError(f"`filename_prefix` is {prefix!r}, but {part!r} {fault}")
    return "/".join(parts)


def fingerprint_files(*paths: Path) -> str:
    """Return a string that changes with files: ComfyUI does not notice another file under the same name.

    Args:
        paths: Those that are not there are left out.
    """
    statuses = {path: path.stat() for path in paths if path.exists()}
    return ";".join(f"{path}:{status.st_mtime_ns}:{status.st_size}" for path, status in statuses.items())


def write_numbered(
    prefix: str, root: str, ending: str, is_taken: Callable[[Path], bool], write: Callable[[Path], None]
) -> Path:
    """Write a file under the next number that is free, which no other process takes at the same moment.

    Args:
        prefix: From `portable_prefix`; the host replaces %year% and the like.
        root: The folder that it is in.
        ending: What follows the number.
        is_taken: Whether a name is in use.
        write: Called with a path, until it does not raise FileExistsError; it gives the file its name by `move_new`.

    Returns:
        The file's path.

    Raises:
        OSError: The system refuses; where the folder must not be written to, that is said.
    """
    try:
        directory, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
        os.makedirs(directory, exist_ok=True)
        while True:
            path = Path(directory) / f"{name}_{counter:05}_{ending}"
            with suppress(FileExistsError):  # another process was faster
                if not is_taken(path):
                    write(path)
                    return path
            counter += 1
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        message = (
            f"{os.strerror(error.errno)}, so nothing is saved; let ComfyUI write into the folder, or choose another"
        )
        raise OSError(error.errno, message, os.path.join(root, prefix)) from error


def move_new(partial: Path, path: Path) -> None:
    """Give a written file its name, unless there is a file of that name.

    Raises:
        FileExistsError: There is one, perhaps since a moment ago.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name, then take its place
        path.touch(exist_ok=False)
        partial.replace(path)
    else:
        partial.unlink()


def _fault(part: str, longest: int) -> str | None:
    if not part:
        return "is no folder: leave out a / at the start and double ones"
    if bad := [one for one in part if one in FORBIDDEN or unicodedata.category(one) in ("Cc", "Cs")]:
        return f"contains {bad[0]!r}, which file names cannot have on every system: use letters, digits, - and _"
    if part[-1] in ". ":
        return "ends with a period or a space: leave it out"
    if part.split(".")[0].strip().lower() in DEVICES:
        return "is the name of a device on Windows: choose another name"
    if (size := len(part.encode())) > longest:
        return f"has {size} bytes, of which at most {longest} fit: choose a shorter name"
    return None
