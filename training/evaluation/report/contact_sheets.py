"""Contact sheets: people × methods for one prompt, prompts × methods for one person."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from difflora_core.images import read_image
from training.pilot.settings_sheet import CELL, image_column, write_sheet

from ..methods.method import ImageRequest
from ..people_folders import EvaluatedPerson
from .report_blocks import Picture

FOLDER = "sheets"
MAX_ROWS = 30
"""Of a sheet."""
LABEL = 22
"""Characters of a line of a label."""
Find = Callable[[str, EvaluatedPerson, ImageRequest], Path | None]
"""Method, person, request → the image's file; None if there is none."""


def write_sheets(
    output: Path,
    methods: Sequence[str],
    people: Sequence[EvaluatedPerson],
    requests: Sequence[ImageRequest],
    find: Find,
) -> list[Picture]:
    """Write the sheets.

    Args:
        output: Folder of the evaluation.
        methods: In order.
        people: All.
        requests: All; those of the first seed are shown.
        find: Finds images.
    """
    shown = [request for request in requests if request.seed == requests[0].seed]
    last, first = shown[-1], people[0]
    rows = [(person, last) for person in people[:MAX_ROWS]]
    title = f"People, prompt {last.prompt.number}"
    _write(output / FOLDER / "people.png", [person.name for person, _ in rows], methods, rows, find)
    pairs = [(first, request) for request in _spread(shown)]
    names = [f"{request.prompt.number} {request.prompt.kind}" for _, request in pairs]
    _write(output / FOLDER / "prompts.png", names, methods, pairs, find)
    return [Picture(title, f"{FOLDER}/people.png"), Picture(f"Prompts, {first.name}", f"{FOLDER}/prompts.png")]


def _spread(requests: Sequence[ImageRequest]) -> list[ImageRequest]:
    count = min(MAX_ROWS, len(requests))
    return [requests[row * len(requests) // count] for row in range(count)]


def _write(
    path: Path,
    names: Sequence[str],
    methods: Sequence[str],
    rows: Sequence[tuple[EvaluatedPerson, ImageRequest]],
    find: Find,
) -> None:
    columns = [(["reference"], image_column([_cell(person.references[0]) for person, _ in rows]))]
    for method in methods:
        images = [_cell(find(method, person, request)) for person, request in rows]
        columns.append((textwrap.wrap(method, LABEL), image_column(images)))
    write_sheet(path, names, columns)


def _cell(path: Path | None) -> Image.Image:
    if path is None:
        return Image.new("RGB", (CELL, CELL), "#dddddd")
    return ImageOps.fit(read_image(path), (CELL, CELL))
