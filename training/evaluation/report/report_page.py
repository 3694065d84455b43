"""report.html: one file with everything in it, contact sheets included, for any browser; no script, nothing loaded."""

import base64
import io
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from difflora_core.files import replacing
from difflora_core.images import read_image

from .report_blocks import Block, Heading, Items, Paragraph, Picture, Table

MAX_SHEET_BYTES = 3_000_000
"""Of an embedded contact sheet, so that a page of two stays below 10 MB."""
QUALITIES = (85, 70, 50, 30)
"""Of JPEG, tried one after another."""
BOLD = re.compile(r"\*\*(.+?)\*\*")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#2d2a26;background:#fffdf8;max-width:1200px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;display:block;overflow-x:auto;margin:1em 0}
td,th{padding:.25em .7em;border-bottom:1px solid #ddd6c8;text-align:right;white-space:nowrap}
th{vertical-align:bottom;white-space:normal}td:first-child,th:first-child{text-align:left}
b{color:#c4552d}img,svg{max-width:100%;height:auto}
"""


def write_page(path: Path, blocks: Iterable[Block], scatter: str) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The file; pictures are relative to its folder.
        blocks: Of the report.
        scatter: An SVG element that stands behind the summary; empty: none.
    """
    parts: list[str] = []
    for number, block in enumerate(blocks):
        if isinstance(block, Heading) and number > 0 and scatter and any("<h2>" in part for part in parts):
            parts.append(scatter)
            scatter = ""
        parts.append(_html(block, number, path.parent))
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>'
    with replacing(path) as partial:
        partial.write_text(f"<!doctype html>\n<html lang=en>{head}\n" + "\n".join(parts) + "\n</html>\n", "utf-8")


def _html(block: Block, number: int, folder: Path) -> str:
    if isinstance(block, Heading):
        tag = "h1" if number == 0 else "h2"
        return f"<{tag}>{escape(block.text)}</{tag}>"
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Picture):
        return f'<img alt="{escape(block.title)}" src="data:image/jpeg;base64,{_jpeg(folder / block.file)}">'
    if isinstance(block, Items):
        tag = "ol" if block.numbered else "ul"
        return f"<{tag}>" + "".join(f"<li>{_inline(line)}</li>" for line in block.lines) + f"</{tag}>"
    return _table(block)


def _table(block: Table) -> str:
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
    rows = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _inline(text: str) -> str:
    return BOLD.sub(r"<b>\1</b>", escape(text))


def _jpeg(path: Path) -> str:
    """Return an image as JPEG in base64, of the best quality that is small enough."""
    image = read_image(path)
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_SHEET_BYTES:
            break
    return base64.b64encode(buffer.getvalue()).decode()
