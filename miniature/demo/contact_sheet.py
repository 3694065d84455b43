"""The demo's contact sheet: a panel for each person, a row for each LoRA, a column for each prompt."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

IMAGE = 176
"""Side of an image on the sheet in pixels; the images themselves have 128."""
THUMBNAIL_IMAGE = 256
"""Side of an image on a workflow's thumbnail in pixels."""
GAP, MARGIN, CORNER = 14, 56, 14
LABEL = 190
PAPER, PANEL, INK, GRAY, ACCENT = "#f6f1e7", "#fffdf8", "#2d2a26", "#8c8378", "#c4552d"


@dataclass(frozen=True)
class ImageRow:
    """Images of one person generated with one LoRA."""

    label: str
    """Name of the LoRA."""
    images: Sequence[Image.Image]
    """One per prompt."""
    similarity: float
    """Mean face similarity to the references: raw cosine."""
    emphasis: bool = False
    """Whether the row is framed in color."""


@dataclass(frozen=True)
class PersonResults:
    """A person's references, and the images generated from them."""

    name: str
    """How the person is called on the sheet."""
    references: Sequence[Image.Image]
    """As many as there are rows, one at the head of each."""
    rows: Sequence[ImageRow]
    """One for each LoRA."""


def contact_sheet(
    title: str, lines: Sequence[str], prompts: Sequence[str], results: Sequence[PersonResults]
) -> Image.Image:
    """Lay out the sheet.

    Args:
        title: Heading.
        lines: Sentences below it.
        prompts: One for each column.
        results: One for each person, all with the same rows.
    """
    columns, rows = len(prompts), len(results[0].rows)
    grid_x = MARGIN + IMAGE + 2 * GAP + LABEL
    width = grid_x + columns * (IMAGE + GAP) + MARGIN
    head = MARGIN + 62 + 30 * len(lines) + 128
    panel_height = rows * (IMAGE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, head + len(results) * (panel_height + 2 * GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, INK, font(44))
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 58 + 30 * number), line, GRAY, font(20))
    for column, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 21))
        place = (grid_x + column * (IMAGE + GAP) + IMAGE // 2, head - 16)
        draw.multiline_text(place, text, INK, font(17), anchor="md", align="center", spacing=5)
    draw.text((MARGIN + GAP + IMAGE // 2, head - 16), "references", INK, font(17), anchor="md")
    for number, result in enumerate(results):
        corner = (MARGIN, head + number * (panel_height + 2 * GAP))
        _draw_panel(sheet, result, corner, (width - 2 * MARGIN, panel_height))
    return sheet


def thumbnail(references: Sequence[Image.Image], generated: Sequence[Image.Image]) -> Image.Image:
    """A workflow's image in ComfyUI's Templates, which shows squares: references, framed, and what came of them.

    Args:
        references: One or two.
        generated: As many as there are left of four places.
    """
    step = THUMBNAIL_IMAGE + GAP
    sheet = Image.new("RGB", (GAP + 2 * step, GAP + 2 * step), PAPER)
    for number, image in enumerate([*references, *generated]):
        row, column = divmod(number, 2)
        frame = ACCENT if number < len(references) else None
        _paste(sheet, image, (GAP + column * step, GAP + row * step), frame, THUMBNAIL_IMAGE)
    return sheet


def overview(results: Sequence[PersonResults]) -> Image.Image:
    """A line for each person: one reference, framed, and the images with the LoRA that the sheet emphasizes."""
    lines = [
        [result.references[0], *(image for row in result.rows if row.emphasis for image in row.images)]
        for result in results
    ]
    step = IMAGE + GAP
    picture = Image.new("RGB", (2 * GAP + len(lines[0]) * step, GAP + len(lines) * step), PAPER)
    for row, line in enumerate(lines):
        for column, image in enumerate(line):
            place = (GAP + column * step + (GAP if column else 0), GAP + row * step)
            _paste(picture, image, place, None if column else ACCENT)
    return picture


def _draw_panel(sheet: Image.Image, result: PersonResults, corner: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    draw.rounded_rectangle((x, y, x + size[0], y + size[1]), CORNER * 2, fill=PANEL)
    for number, (reference, row) in enumerate(zip(result.references, result.rows, strict=True)):
        top = y + GAP + GAP // 2 + number * (IMAGE + GAP)
        grid_x = x + IMAGE + 2 * GAP + LABEL
        _paste(sheet, reference, (x + GAP, top))
        color = ACCENT if row.emphasis else INK
        right, middle = grid_x - 24, top + IMAGE // 2
        label = textwrap.wrap(row.label, 15)
        for line, text in enumerate(label):
            draw.text((right, middle - 14 - 26 * (len(label) - 1 - line)), text, color, font(22), anchor="rm")
        draw.text((right, middle + 16), f"likeness {row.similarity:.2f}", GRAY, font(17), anchor="rm")
        if number == 0:
            draw.text((right, top + 14), result.name, GRAY, font(17), anchor="rm")
        for column, image in enumerate(row.images):
            _paste(sheet, image, (grid_x + column * (IMAGE + GAP), top), ACCENT if row.emphasis else None)


def _paste(
    sheet: Image.Image, image: Image.Image, place: tuple[int, int], frame: str | None = None, size: int = IMAGE
) -> None:
    """Paste an image with round corners, drawn at four times the size so that they are smooth."""
    mask = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size - 1, 4 * size - 1), 4 * CORNER, fill=255)
    mask = mask.resize((size, size), Image.Resampling.LANCZOS)
    sheet.paste(image.resize((size, size), Image.Resampling.LANCZOS), place, mask)
    if frame:
        x, y = place
        ImageDraw.Draw(sheet).rounded_rectangle((x - 3, y - 3, x + size + 2, y + size + 2), CORNER + 2, None, frame, 3)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that the sheet looks the same everywhere and no font has to be shipped."""
    return ImageFont.load_default(size)
