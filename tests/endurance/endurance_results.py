"""What the endurance run records, what is checked of it, and how it is shown."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from PIL import Image

from difflora_core.files import read_shapes, replacing
from training.engine.charts import Line, Panel, draw_panels

MAX_GROWTH = 0.02
"""Of the idle server's trimmed RSS, from the first to the last round."""
MIN_PROMPTS_FOR_GROWTH = 500
"""With fewer the first round is shorter than the server takes to reach its working size."""
MEBIBYTE = 2**20
PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of a PNG file; Pillow reads one that lacks it without a word."""
WINDOW = 10
"""Prompts behind each point of the chart."""


@dataclass(frozen=True)
class Record:
    """How one prompt ended."""

    number: int
    """In the order of their ends, from 1."""
    kind: str
    """Of the request."""
    seconds: float
    """Of execution as the server measured it; 0 if it was refused."""
    rss: int
    """Bytes of the server's resident memory at that moment."""
    outcome: str
    """`image`, `file`, `expected error`, else what happened instead."""
    expected: bool
    """Whether it ended as it has to."""
    probe: str = ""
    """Name of the prompt that is sent several times."""
    digest: str = ""
    """SHA-256 of the images' pixels, or of the file."""


@dataclass(frozen=True)
class Idle:
    """The server's memory between two rounds, when nothing runs and POST /free has emptied it."""

    prompts: int
    """How many have ended."""
    rss: int
    """Bytes, with the free memory that the C library keeps for later."""
    trimmed: int
    """Bytes without it."""

    def __str__(self) -> str:
        """Describe it in a line."""
        rss, trimmed = self.rss / MEBIBYTE, self.trimmed / MEBIBYTE
        return f"RSS after {self.prompts:4} prompts, idle: {rss:7.1f} MiB, trimmed {trimmed:7.1f} MiB"


def check_outcomes(records: Iterable[Record]) -> list[str]:
    """Find prompts that did not end as they have to."""
    return [
        f"prompt {record.number} ({record.kind}) ended with: {record.outcome}"
        for record in records
        if not record.expected
    ]


def check_probes(records: Iterable[Record]) -> list[str]:
    """Find prompts that were sent several times and did not give the same result each time."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.probe and record.digest:
            found[record.probe].append(record)
    return [
        f"the same prompt ({probe}) gave {len({record.digest for record in same})} different results, sent as numbers "
        f"{', '.join(str(record.number) for record in same)}"
        for probe, same in found.items()
        if len({record.digest for record in same}) > 1
    ]


def growth(idle: Sequence[Idle]) -> float:
    """Return the share by which the idle server's trimmed memory has grown from the first to the last round."""
    return idle[-1].trimmed / idle[0].trimmed - 1.0


def check_growth(idle: Sequence[Idle]) -> list[str]:
    """Find a growth above `MAX_GROWTH`; a run of fewer than `MIN_PROMPTS_FOR_GROWTH` is not judged."""
    if not idle or idle[-1].prompts < MIN_PROMPTS_FOR_GROWTH or growth(idle) <= MAX_GROWTH:
        return []
    first, last = idle[0], idle[-1]
    return [
        f"the idle server's RSS grew by {growth(idle):.1%}, from {first.trimmed / MEBIBYTE:.0f} MiB after "
        f"{first.prompts} prompts to {last.trimmed / MEBIBYTE:.0f} MiB after {last.prompts}; "
        f"at most {MAX_GROWTH:.0%} is accepted"
    ]


def files_below(folders: Iterable[Path]) -> set[Path]:
    """List all files of some folders, hidden ones included."""
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def check_leftovers(files: Iterable[Path]) -> list[str]:
    """Find new files that are neither a whole image nor a whole LoRA file."""
    problems = {path: _leftover(path) for path in sorted(files)}
    return [f"leftover file {path}: {problem}" for path, problem in problems.items() if problem]


def _leftover(path: Path) -> str:
    if path.name.startswith(".") or path.suffix not in (".png", ".safetensors"):
        return "nothing that a prompt saves"
    try:
        if path.suffix == ".png":
            if not path.read_bytes().endswith(PNG_END):
                return "a PNG file without its end"
            with Image.open(path) as image:
                image.load()
        elif not read_shapes(path)[0]:
            return "holds no tensors"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write a line for every prompt."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)])
        writer.writeheader()
        writer.writerows({**asdict(record), "seconds": f"{record.seconds:.3f}"} for record in records)


def seconds_table(records: Sequence[Record]) -> str:
    """Tabulate the mean seconds of each kind in the first and in the last fifth, and their ratio.

    The prompts of a fifth are drawn anew, so that the ratio of a kind with few of them says little.
    """
    part = max(1, len(records) // 5)
    lines = [f"{'kind':24}{'prompts':>9}{f'first {part}':>12}{f'last {part}':>12}{'ratio':>8}"]
    for kind in sorted({record.kind for record in records}):
        of_kind = [record for record in records if record.kind == kind]
        first = [record.seconds for record in of_kind if record.number <= part]
        last = [record.seconds for record in of_kind if record.number > len(records) - part]
        means = [f"{fmean(seconds):.2f} s" if seconds else "–" for seconds in (first, last)]
        ratio = f"{fmean(last) / fmean(first):.2f}" if first and last and fmean(first) else "–"
        lines.append(f"{kind:24}{len(of_kind):>9}{means[0]:>12}{means[1]:>12}{ratio:>8}")
    return "\n".join(lines)


def draw_chart(path: Path, records: Sequence[Record], idle: Sequence[Idle]) -> None:
    """Draw RSS and seconds per prompt over the prompts."""
    memory = [(record.number, record.rss / MEBIBYTE) for record in records]
    lines = [Line("after each prompt", 1, False, _windows(memory, WINDOW))]
    if idle:
        freed = [(state.prompts, *[state.rss / MEBIBYTE] * 3) for state in idle]
        trimmed = [(state.prompts, *[state.trimmed / MEBIBYTE] * 3) for state in idle]
        lines += [Line("idle, after POST /free", 3, True, freed), Line("the same, trimmed", 0, False, trimmed)]
    counts = {kind: sum(record.kind == kind for record in records) for kind in {record.kind for record in records}}
    common = sorted(counts, key=lambda kind: (-counts[kind], kind))[:4]
    speeds = [
        Line(kind, number, number % 2 == 1, _windows(_seconds(records, kind), WINDOW // 2))
        for number, kind in enumerate(common)
    ]
    axis = f"prompts; mean, least and largest of {WINDOW}"
    panels = [
        Panel("The server's RSS in MiB", axis, lines, logarithmic=False, range=_range(lines)),
        Panel(
            "Seconds of the commonest kinds",
            f"prompts; mean, least and largest of {WINDOW // 2} of a kind",
            speeds,
            logarithmic=False,
            range=_range(speeds),
        ),
    ]
    draw_panels(path, panels)


def _seconds(records: Sequence[Record], kind: str) -> list[tuple[float, float]]:
    return [(record.number, record.seconds) for record in records if record.kind == kind]


def _windows(points: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float, float, float]]:
    windows = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (fmean(x for x, _ in window), fmean(y for _, y in window), min(window, key=_y)[1], max(window, key=_y)[1])
        for window in windows
    ]


def _y(point: tuple[float, float]) -> float:
    return point[1]


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    """From zero, so that the height of a change is its share."""
    return 0.0, 1.05 * max((point[3] for line in lines for point in line.points), default=1.0)
