"""Images that nodes show: boxes around detected faces, a grid with labels, a loss curve."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..difflora_core.encoders.face_encoder import EncodedFace
from ..difflora_core.encoders.similarity import FaceSimilarities

MAX_PREVIEW_SIDE = 1024
"""Longest side in pixels of an image with boxes."""
MAX_CELL_SIDE = 512
"""Longest side in pixels of an image in a grid."""
MAX_GRID_PIXELS = 2**26
"""Of a grid, without its labels: as many take 800 MB in 32 bits."""
MIN_BAND, MIN_FONT = 20, 9
"""Least height in pixels of the space below an image in a grid, and of its label."""
MIN_NUMBER = 14
"""Least size in pixels of the font of a face's number."""
CHOSEN_COLOR, OTHER_COLOR, TEXT_COLOR, PAPER_COLOR = "#c4552d", "#8c8378", "#2d2a26", "#fffdf8"


def with_boxes(image: Tensor, face: EncodedFace, numbered: bool = False) -> Tensor:
    """Draw a box around every face of an image, the chosen one in color.

    Args:
        image: (height, width, 3) in [0, 1].
        face: The detected faces.
        numbered: Whether each box has the number by which its face is chosen.

    Returns:
        (height, width, 3) in [0, 1]; larger images are resized to a longer side of MAX_PREVIEW_SIDE.
    """
    canvas = _to_pil(image)
    scale = min(1.0, MAX_PREVIEW_SIDE / max(canvas.size))
    canvas = canvas.resize((max(1, round(scale * canvas.width)), max(1, round(scale * canvas.height))))
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(min(canvas.size) / 64))
    font = ImageFont.load_default(max(MIN_NUMBER, min(canvas.size) // 12))
    for row, (*box, _) in enumerate(face.boxes.tolist()):
        box = [scale * side for side in box]
        color = CHOSEN_COLOR if row == face.chosen else OTHER_COLOR
        corners = [max(0.0, box[0]), max(0.0, box[1]), min(box[2], canvas.width - 1), min(box[3], canvas.height - 1)]
        draw.rectangle(corners, outline=color, width=width)
        if numbered:
            *_, right, bottom = font.getbbox(str(row))
            place = corners[0] + width, corners[1] + width
            draw.rectangle((*corners[:2], place[0] + right + 2 * width, place[1] + bottom + 2 * width), color)
            draw.text((place[0] + width, place[1]), str(row), PAPER_COLOR, font)
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255.0


def similarity_grid(images: Sequence[Tensor], found: FaceSimilarities) -> Tensor:
    """Arrange images in rows of at most four, each with a box around its face and its cosine below.

    Args:
        images: Each (height, width, 3) in [0, 1], of any size.
        found: Their faces and cosines.

    Returns:
        One image (1, height, width, 3) in [0, 1].
    """
    boxed = [
        image if face is None else with_boxes(image, face) for image, face in zip(images, found.faces, strict=True)
    ]
    pairs = zip(found.faces, found.cosines.tolist(), strict=True)
    labels = ["no face" if face is None else f"{cosine:.2f}" for face, cosine in pairs]
    return labeled_grid(boxed, labels, columns=min(4, len(images)), max_side=MAX_CELL_SIDE)


def labeled_grid(images: Sequence[Tensor], labels: Sequence[str], *, columns: int, max_side: int) -> Tensor:
    """Arrange images in rows, each in the middle of a cell with its label below.

    Args:
        images: Each (height, width, 3) in [0, 1], of any size.
        labels: One for each.
        columns: Images in a row.
        max_side: Longest side in pixels of an image; larger ones are resized, further where the grid would have more
            than MAX_GRID_PIXELS.

    Returns:
        One image (1, height, width, 3) in [0, 1].
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    scale = min(1.0, max_side / max(height, width), (MAX_GRID_PIXELS / (rows * columns * height * width)) ** 0.5)
    height, width = max(1, round(scale * height)), max(1, round(scale * width))
    band = max(MIN_BAND, height // 10)
    sheet = Image.new("RGB", (columns * width, rows * (height + band)), PAPER_COLOR)
    draw, font = ImageDraw.Draw(sheet), _fitting_font(labels, width, band)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        cell = ImageOps.contain(_to_pil(image), (width, height))
        x, y = number % columns * width, number // columns * (height + band)
        sheet.paste(cell, (x + (width - cell.width) // 2, y + (height - cell.height) // 2))
        draw.text((x + width // 2, y + height + band // 2), label, TEXT_COLOR, font, anchor="mm")
    return torch.from_numpy(np.asarray(sheet).copy()).float()[None].div_(255.0)


def _fitting_font(labels: Sequence[str], width: int, band: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font in which all labels fit below an image, but never an unreadable one."""
    sizes = range(round(0.7 * band), MIN_FONT, -1)
    fonts = (ImageFont.load_default(size) for size in sizes)
    fitting = (font for font in fonts if max(map(font.getlength, labels)) <= 0.96 * width)
    return next(fitting, ImageFont.load_default(MIN_FONT))


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.mul(255).round().clamp(0, 255).byte().cpu().numpy())


def loss_curve(losses: Sequence[float]) -> Tensor:
    """Plot the loss of every step as dots and its running mean as a line: one image (1, 300, 500, 3) in [0, 1]."""
    width, height, edge = 500, 300, 40
    sheet = Image.new("RGB", (width, height), PAPER_COLOR)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    low, high = min(losses), max(losses)

    def place(step: int, loss: float) -> tuple[float, float]:
        across = step / max(1, len(losses) - 1)
        up = (loss - low) / (high - low) if high > low else 0.5
        return edge + across * (width - 2 * edge), height - edge - up * (height - 2 * edge)

    smooth, line = losses[0], []
    for step, loss in enumerate(losses):
        smooth += 0.1 * (loss - smooth)
        line.append(place(step, smooth))
        x, y = place(step, loss)
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), OTHER_COLOR)
    draw.line([(edge, edge), (edge, height - edge), (width - edge, height - edge)], TEXT_COLOR)
    if len(line) > 1:
        draw.line(line, CHOSEN_COLOR, 3)
    draw.text((edge, edge - 18), f"loss, {high:.3g}", TEXT_COLOR, font)
    draw.text((edge, height - edge + 6), f"{low:.3g}, step 1", TEXT_COLOR, font)
    draw.text((width - edge, height - edge + 6), f"step {len(losses)}", TEXT_COLOR, font, anchor="ra")
    return torch.from_numpy(np.asarray(sheet).copy()).float()[None] / 255.0
