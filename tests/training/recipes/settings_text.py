"""Settings files of recipes, changed as text: all that is not changed stays as shipped."""

from collections.abc import Mapping
from pathlib import Path


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a text wherever it is in a file; it has to be there."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def replace_texts(recipe: Path, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Replace texts in the files of a recipe's folder, by file and old text, one after another."""
    for name, own in changes.items():
        for old, new in own.items():
            replace_text(recipe / name, old, new)
