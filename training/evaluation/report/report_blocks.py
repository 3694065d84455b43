"""The report as blocks of text, which are written as Markdown and as a page. `**bold**` is the only markup in them.

The order is that of a reader's questions: who wins at what, how sure is it, what does it cost, how was it measured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; the first one is the title."""

    text: str
    """Without markup."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str
    """Sentences."""


@dataclass(frozen=True)
class Items:
    """A list."""

    lines: Sequence[str]
    """One for each item."""
    numbered: bool = False
    """From 1 on."""


@dataclass(frozen=True)
class Table:
    """A table whose first column is text, the others numbers."""

    head: Sequence[str]
    """Titles of the columns."""
    rows: Sequence[Sequence[str]]
    """As long as the head."""


@dataclass(frozen=True)
class Picture:
    """An image file."""

    title: str
    """What it shows."""
    file: str
    """Relative to the report."""


Block = Heading | Paragraph | Items | Table | Picture


def to_markdown(blocks: Iterable[Block]) -> str:
    """Write blocks as Markdown."""
    return "\n\n".join(_markdown(block, number) for number, block in enumerate(blocks)) + "\n"


def _markdown(block: Block, number: int) -> str:
    if isinstance(block, Heading):
        return f"{'#' if number == 0 else '##'} {block.text}"
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Picture):
        return f"![{block.title}]({block.file})"
    if isinstance(block, Table):
        lines = [block.head, ["---", *["---:"] * (len(block.head) - 1)], *block.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    signs = (f"{row}." if block.numbered else "-" for row in range(1, len(block.lines) + 1))
    return "\n".join(f"{sign} {' '.join(line.split())}" for sign, line in zip(signs, block.lines, strict=True))
