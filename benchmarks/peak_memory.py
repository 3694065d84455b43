"""Peak memory of this process, or of another one."""

import sys
from pathlib import Path

GIB = 2**30


def peak_gib(pid: int | None = None) -> float:
    """Return the peak resident memory of a process in GiB, pages of mapped files included.

    Args:
        pid: Of the process; None is this one.

    Returns:
        NaN where the system does not tell: on Windows, and of other processes where there is no /proc.
    """
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if status.is_file():  # ru_maxrss would begin with the parent's peak
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20
        )
    if pid is not None or sys.platform == "win32":
        return float("nan")
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB
