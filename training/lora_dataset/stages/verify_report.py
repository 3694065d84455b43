"""The report of stage verify, and its sheet of images."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image, ImageDraw, ImageFont

from difflora_core.files import replacing
from difflora_core.images import write_image
from training.lora_dataset.manifest import Record

METRICS = ("similarity", "similarity_without", "loss", "loss_without")
CELL, EDGE, TITLE = 160, 8, 28
"""Pixels of an image's side, of the space between images, and of the line of text."""


def write_report(folder: Path, records: Sequence[Record]) -> None:
    """Write report.json and sheet.png. The folder holds each person's strip of images, <person>.png."""
    means = {name: fmean(record.facts[name] for record in records) for name in METRICS}
    people = {record.item: {name: record.facts[name] for name in METRICS} for record in records}
    with replacing(folder / "report.json") as partial:
        partial.write_text(json.dumps({"mean": means, "people": people}, indent=1), encoding="utf-8")
    strips = [Image.open(folder / f"{record.item}.png") for record in records]
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    write_image(folder / "sheet.png", sheet)


def image_strip(title: str, images: Sequence[Image.Image]) -> Image.Image:
    """Draw a line of text and images side by side."""
    strip = Image.new("RGB", (EDGE + len(images) * (CELL + EDGE), CELL + TITLE + EDGE), "white")
    ImageDraw.Draw(strip).text((EDGE, 6), title, "#2d2a26", ImageFont.load_default(14))
    for column, image in enumerate(images):
        strip.paste(image.resize((CELL, CELL), Image.Resampling.LANCZOS), (EDGE + column * (CELL + EDGE), TITLE))
    return strip
