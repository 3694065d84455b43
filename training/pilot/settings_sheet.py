"""The contact sheet of a pilot: a row for each person, a column for each setting."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difflora_core.images import write_image

CELL, EDGE, FONT, LINE = 128, 6, 12, 15
"""Pixels of an image's side, of the space between images, of letters and of a line of text."""
PAPER, INK, MARK = "white", "#2d2a26", "#c03028"


def image_column(images: Sequence[np.ndarray | Image.Image]) -> Image.Image:
    """Put images, uint8 (height, width, 3), one below another."""
    column = Image.new("RGB", (CELL, len(images) * (CELL + EDGE) - EDGE), PAPER)
    for row, image in enumerate(images):
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        column.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (0, row * (CELL + EDGE)))
    return column


def write_sheet(
    path: Path, rows: Sequence[str], columns: Sequence[tuple[Sequence[str], Image.Image]], marked: int | None = None
) -> None:
    """Write the sheet as a PNG file.

    Args:
        path: Of the file.
        rows: Names of the people.
        columns: Lines of text above each column, and the column as `image_column` makes it.
        marked: Number of the column with a frame, from 0 on.
    """
    font = ImageFont.load_default(FONT)
    head = EDGE + LINE * max(len(lines) for lines, _ in columns)
    side = EDGE + round(max(font.getlength(name) for name in rows))
    width = side + EDGE + len(columns) * (CELL + EDGE)
    height = head + EDGE + max(column.height for _, column in columns) + EDGE
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(rows):
        draw.text((EDGE, head + EDGE + row * (CELL + EDGE) + CELL // 2), name, INK, font, anchor="lm")
    for number, (lines, column) in enumerate(columns):
        left = side + EDGE + number * (CELL + EDGE)
        for line, text in enumerate(lines):
            draw.text((left, EDGE + line * LINE), text, MARK if number == marked else INK, font)
        sheet.paste(column, (left, head + EDGE))
        if number == marked:
            draw.rectangle((left - 3, head + EDGE - 3, left + CELL + 2, head + EDGE + column.height + 2), None, MARK, 3)
    write_image(path, sheet)
