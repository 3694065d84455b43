"""JSON files that say what they were made from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difflora_core.files import replacing


def read_made_from(path: Path, inputs: Mapping[str, Any], names: set[str]) -> dict[str, Any] | None:
    """Read a file that was made from these inputs and has these entries; None: there is none, or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if values["inputs"] == inputs and names <= values.keys() else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        ValueError: A number is NaN or infinite, which JSON has not.
        OSError: The system refuses.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
