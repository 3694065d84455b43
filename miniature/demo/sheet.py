"""The demo's contact sheet: one card per person, one stripe per LoRA, one column per prompt."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PICTURE = 176
"""Side of a picture on the sheet in pixels; the pictures themselves have 128."""
GAP, MARGIN, CORNER = 14, 56, 14
LABEL = 190
PAPER, CARD, INK, QUIET, ACCENT = "#f6f1e7", "#fffdf8", "#2d2a26", "#8c8378", "#c4552d"


@dataclass(frozen=True)
class Stripe:
    """A row of pictures of one person made in one way."""

    label: str
    pictures: Sequence[Image.Image]
    """One per prompt."""
    similarity: float
    """Mean face similarity to the references: raw cosine."""
    emphasis: bool = False


@dataclass(frozen=True)
class Card:
    """A person: what the networks saw, and what came out."""

    name: str
    references: Sequence[Image.Image]
    """As many as there are stripes, one at the head of each."""
    stripes: Sequence[Stripe]


def contact_sheet(title: str, lines: Sequence[str], prompts: Sequence[str], cards: Sequence[Card]) -> Image.Image:
    """Lay out the sheet.

    Args:
        title, lines: heading, and sentences below it.
        prompts: one per column.
        cards: one per person, all with the same stripes.
    """
    columns, stripes = len(prompts), len(cards[0].stripes)
    grid_x = MARGIN + PICTURE + 2 * GAP + LABEL
    width = grid_x + columns * (PICTURE + GAP) + MARGIN
    head = MARGIN + 62 + 30 * len(lines) + 128
    card_height = stripes * (PICTURE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, head + len(cards) * (card_height + 2 * GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, INK, font(44))
    for row, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 58 + 30 * row), line, QUIET, font(20))
    for column, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 21))
        place = (grid_x + column * (PICTURE + GAP) + PICTURE // 2, head - 16)
        draw.multiline_text(place, text, INK, font(17), anchor="md", align="center", spacing=5)
    draw.text((MARGIN + GAP + PICTURE // 2, head - 16), "references", INK, font(17), anchor="md")
    for row, card in enumerate(cards):
        _draw_card(sheet, card, (MARGIN, head + row * (card_height + 2 * GAP)), (width - 2 * MARGIN, card_height))
    return sheet


def thumbnail(references: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> Image.Image:
    """One or two references, an arrow, four pictures made from them: a workflow's picture in ComfyUI's Templates."""
    side = 2 * PICTURE + GAP
    image = Image.new("RGB", (2 * side + 5 * GAP + 40, side + 4 * GAP), PAPER)
    draw = ImageDraw.Draw(image)
    top, right = 2 * GAP, side + 3 * GAP + 40
    if len(references) == 1:
        _paste(image, references[0], (2 * GAP, top), size=side)
    else:
        for row, reference in enumerate(references[:2]):
            _paste(image, reference, (2 * GAP + (side - PICTURE) // 2, top + row * (PICTURE + GAP)))
    x, y = side + 2 * GAP + 12, top + side // 2
    draw.polygon([(x, y - 18), (x + 30, y), (x, y + 18)], ACCENT)
    for number, picture in enumerate(pictures[:4]):
        row, column = divmod(number, 2)
        _paste(image, picture, (right + column * (PICTURE + GAP), top + row * (PICTURE + GAP)))
    return image


def _draw_card(sheet: Image.Image, card: Card, corner: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    draw.rounded_rectangle((x, y, x + size[0], y + size[1]), CORNER * 2, fill=CARD)
    for row, (reference, stripe) in enumerate(zip(card.references, card.stripes, strict=True)):
        top = y + GAP + GAP // 2 + row * (PICTURE + GAP)
        grid_x = x + PICTURE + 2 * GAP + LABEL
        _paste(sheet, reference, (x + GAP, top))
        color = ACCENT if stripe.emphasis else INK
        right, middle = grid_x - 24, top + PICTURE // 2
        draw.text((right, middle - 14), stripe.label, color, font(24), anchor="rm")
        draw.text((right, middle + 16), f"likeness {stripe.similarity:.2f}", QUIET, font(17), anchor="rm")
        if row == 0:
            draw.text((right, top + 14), card.name, QUIET, font(17), anchor="rm")
        for column, picture in enumerate(stripe.pictures):
            _paste(sheet, picture, (grid_x + column * (PICTURE + GAP), top), ACCENT if stripe.emphasis else None)


def _paste(
    sheet: Image.Image, picture: Image.Image, place: tuple[int, int], frame: str | None = None, size: int = PICTURE
) -> None:
    """Paste a picture with round corners, drawn at four times the size so that they are smooth."""
    mask = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size - 1, 4 * size - 1), 4 * CORNER, fill=255)
    mask = mask.resize((size, size), Image.Resampling.LANCZOS)
    sheet.paste(picture.resize((size, size), Image.Resampling.LANCZOS), place, mask)
    if frame:
        x, y = place
        ImageDraw.Draw(sheet).rounded_rectangle((x - 3, y - 3, x + size + 2, y + size + 2), CORNER + 2, None, frame, 3)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that the sheet looks the same everywhere and no font has to be shipped."""
    return ImageFont.load_default(size)
