"""Changing some values of a settings file; comments, order and everything else stay as they are."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.util import load_yaml_guess_indent

from difflora_core.files import replacing

WIDTH = 10_000
"""Columns at which ruamel.yaml would break a line; ours are never broken."""


def change_settings(
    path: Path, section: str, values: Mapping[str, Any], check: Callable[[Path], object]
) -> dict[str, tuple[Any, Any]]:
    """Set values of one section of a YAML file; a section that is not there is made.

    Args:
        path: Of the file.
        section: Name of the mapping that holds the values.
        values: By key.
        check: Reads the new file as the commands do; it raises if that is not possible, and the file is left as it was.

    Returns:
        What was changed: by key the value before (None: it was not there) and after; empty if nothing was written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The section is no mapping.
        PermissionError: The file may not be written.
    """
    path = path.resolve()  # of a link, the file itself is changed
    text = path.read_text(encoding="utf-8")
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, WIDTH
    _, indent, offset = load_yaml_guess_indent(text)
    yaml.indent(mapping=indent or 2, sequence=indent or 2, offset=offset or 0)
    document = yaml.load(text)
    own = document.setdefault(section, CommentedMap())
    if not isinstance(own, CommentedMap):
        raise ValueError(f"{path}: {section} holds a {type(own).__name__}, expected settings by name")
    changes = {key: (own.get(key), value) for key, value in values.items() if own.get(key) != value}
    if not changes:
        return {}
    for key, (_, value) in changes.items():
        if key in own:
            own[key] = value
        else:
            own.insert(0, key, value)  # at the end it would stand behind the comments above the next section
    content = io.StringIO()
    yaml.dump(document, content)
    with replacing(path) as partial:
        partial.write_text(content.getvalue(), encoding="utf-8")
        check(partial)
    return changes
