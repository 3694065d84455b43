"""File names that every operating system accepts: the start of a file's name as a user enters it."""

import unicodedata

MAX_BYTES = 255
"""Of one name, in UTF-8, on the usual file systems."""
FORBIDDEN = '<>:"|?*'
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
