"""Changes of files that keep their form, so that what is read after the form is reached, too.

A safetensors file whose bytes are changed at random is nearly always refused for its header alone. So the header is
changed as a JSON document, and its length, the offsets and the amount of data are mostly made to agree again.
"""

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

MutateBytes = Callable[[bytes, int], bytes]
"""Changes bytes, which may become as many as the second argument; atheris has one."""

LENGTH_BYTES = 8
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "U8": 1, "BOOL": 1}
OTHER_DTYPES = ("U16", "U32", "U64", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "f32", "")
NUMBERS = (0, -1, 1, 2, 3, 4, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"))
TEXTS = ("", "\x00", "\ud800", "é", "..", "a/b", "true", "[", "[" * 2000, "9" * 5000, "(a+)+$", "x" * 300)
MOST_DATA = 20_000
"""Bytes of data that are added where a changed shape asks for them."""

YAML_VALUES = (
    *("", "~", "true", "yes", "-1", "0", "0x10", "1e400", ".nan", ".inf", "2020-13-45", "12:30:45", "1_000", "0o17"),
    *(
        "[]",
        "{}",
        "[1, [2]]",
        "{a: {b: c}}",
        "&a [*a]",
        "*a",
        "!!set {a}",
        "!!binary '='",
        "!!timestamp x",
        "!!omap [a]",
    ),
    *(
        "~no-such-user/x",
        "~",
        "''",
        '"\\0"',
        '"\\uD800"',
        "'" + "x" * 5000 + "'",
        "<<: *a",
        "|\n  a",
        ">-\n",
        "? a",
        "- a",
    ),
    *("%YAML 1.1\n---", "---", "...", "# c", "\t", "\ufeff", "a: b: c", "!!python/object:os.system x", "!!int x"),
)


def mutate_safetensors(content: bytes, most: int, seed: int, mutate: MutateBytes) -> bytes:
    """Change a safetensors file of at most `most` bytes."""
    draw = random.Random(seed)
    size = int.from_bytes(content[:LENGTH_BYTES], "little")
    text, data = content[LENGTH_BYTES : LENGTH_BYTES + size], content[LENGTH_BYTES + size :]
    kind = draw.random()
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if kind < 0.05:
        return mutate(content, most)
    if kind < 0.2 and data:
        return content[: LENGTH_BYTES + size] + mutate(data, max(1, most - LENGTH_BYTES - size))
    if kind < 0.3 or not isinstance(header, dict):
        return _joined(mutate(text, max(1, most - LENGTH_BYTES)), data)[:most]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        header = changed(header, draw)
    if isinstance(header, dict) and draw.random() < 0.8:
        data = _fit(header, data)
    return _joined(_dump(header), data)[:most]


def mutate_settings(content: bytes, most: int, seed: int, mutate: MutateBytes) -> bytes:
    """Change a YAML file of at most `most` bytes."""
    draw = random.Random(seed)
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if draw.random() < 0.3:
        return mutate(content, most)
    number = draw.randrange(len(lines))
    key, colon, value = lines[number].partition(":")
    kind = draw.randrange(6)
    if kind <= 2:
        start = draw.randrange(len(value) + 1) if draw.random() < 0.3 else 0
        lines[number] = f"{key}{colon or ':'} {value[:start]}{draw.choice(YAML_VALUES)}"
    elif kind == 3:
        lines.insert(draw.randrange(len(lines) + 1), lines[number])
    elif kind == 4:
        del lines[number]
    else:
        lines[number] = draw.choice(("  ", " ", "- ", "", "\t")) + lines[number].lstrip()
    return "\n".join(lines).encode("utf-8", "surrogateescape")[:most]


def changed(document: Any, draw: random.Random) -> Any:
    """Return a JSON document that differs at one place; texts that are JSON are documents, too."""
    if isinstance(document, str) and document[:1] in ("{", "[") and draw.random() < 0.9:
        try:
            return _dump(changed(json.loads(document), draw)).decode()
        except (ValueError, RecursionError):
            pass
    if not isinstance(document, dict | list) or not document or draw.random() < 0.05:
        return _other(document, draw)
    document = copy.copy(document)
    key = draw.choice(list(document) if isinstance(document, dict) else range(len(document)))
    if "__metadata__" in document and draw.random() < 0.4:
        key = "__metadata__"  # one of very many keys, and what most is read from
    kind = draw.random()
    if kind < 0.07:
        del document[key]
    elif kind < 0.2 and isinstance(document, dict):
        name = _other_name(key, list(document), draw)
        document[name] = document[key] if draw.random() < 0.5 else document.pop(key)
    elif kind < 0.25 and isinstance(document, list):
        document.insert(draw.randrange(len(document) + 1), copy.deepcopy(document[key]))
    else:
        document[key] = changed(document[key], draw)
    return document


def _other(value: Any, draw: random.Random) -> Any:
    """Return another value, mostly of the same type."""
    if isinstance(value, bool | None) or draw.random() < 0.15:
        return draw.choice((None, True, False, [], {}, [1], {"a": 1}, "a", [[]], *NUMBERS))
    if isinstance(value, int | float):
        return value + draw.choice((-1, 1)) if draw.random() < 0.4 else draw.choice(NUMBERS)
    if isinstance(value, str):
        return draw.choice((*BYTES, *OTHER_DTYPES) if value in BYTES else TEXTS)
    return type(value)()


def _other_name(name: str, names: list[str], draw: random.Random) -> str:
    """Return a name with the beginning of one and the end of another, or with something else in it."""
    other = draw.choice(names)
    parts, others = name.split("."), other.split(".")
    if draw.random() < 0.7:
        return ".".join((*parts[: draw.randint(0, len(parts))], *others[draw.randint(0, len(others)) :]))
    position = draw.randint(0, len(name))
    return name[:position] + draw.choice((*TEXTS, ".default", "lora_te1_", ".bias", "0", "_", ".")) + name[position:]


def _fit(header: dict[str, Any], data: bytes) -> bytes:
    """Let offsets follow from dtypes and shapes, and the data from the offsets, where shapes are possible."""
    end = 0
    for tensor in header.values():
        if not isinstance(tensor, dict) or not {"dtype", "shape"} <= tensor.keys():
            continue
        shape = tensor["shape"]
        if not isinstance(shape, list) or not all(type(width) is int and width >= 0 for width in shape):
            continue
        size = math.prod(shape) * BYTES.get(str(tensor["dtype"]), 4)
        if end + size > len(data) + MOST_DATA:
            continue
        tensor["data_offsets"] = [end, end + size]
        end += size
    return (data + bytes(MOST_DATA))[:end] if end else data


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _joined(text: bytes, data: bytes) -> bytes:
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data
