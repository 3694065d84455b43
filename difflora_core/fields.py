"""Fields of configuration dataclasses: ranges and choices stand beside each field, and are checked in one place.

    @dataclass(frozen=True)
    class Config:
        steps: PositiveInt = 20

        def __post_init__(self) -> None:
            check_fields(self)

The annotations are `annotated_types`', which pydantic reads as well. NaN and infinity are outside every range.
"""

import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
"""A share of something."""
Cosine = Annotated[float, Interval(ge=-1, le=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**63)]
"""What `torch.Generator.manual_seed` takes."""

MAX_TEXT = 60
"""Characters of a value that an error shows."""

Bound = Ge | Gt | Le | Lt | MultipleOf
_BOUNDS = {
    Ge: ("ge", operator.ge, "of at least"),
    Gt: ("gt", operator.gt, "above"),
    Le: ("le", operator.le, "of at most"),
    Lt: ("lt", operator.lt, "below"),
    MultipleOf: ("multiple_of", lambda value, factor: value % factor == 0, "divisible by"),
}
"""Kind of bound → the name of its limit, the comparison with it, and words."""


def check_fields(settings: Any) -> None:
    """Check every number and every choice of a dataclass against its annotation.

    NumPy's numbers become Python's, which files in JSON can hold.

    Args:
        settings: An instance of a dataclass. None is right for fields whose annotation has it.

    Raises:
        ValueError: A number is of another kind, not finite, or outside its range, or a value is not among the choices
            of a `Literal`; the message names the field, what was found and what was expected.
    """
    section: Any = type(settings)
    optional = optional_fields(section)
    for name, choices in choice_fields(section).items():
        value = getattr(settings, name)
        if value not in choices and (value is not None or name not in optional):
            raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(map(str, choices))}")
    for name, (kind, bounds) in number_fields(section).items():
        value = getattr(settings, name)
        if value is None and name in optional:
            continue
        right_kind = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        if not right_kind or not math.isfinite(value) or not all(_within(value, bound) for bound in bounds):
            raise ValueError(f"{name}: found {value!r}, expected {describe(kind, bounds)}")
        if type(value) not in (int, float):
            object.__setattr__(settings, name, kind(value))  # the dataclass is frozen


@cache
def number_fields(settings: type[Any]) -> dict[str, tuple[type, tuple[Bound, ...]]]:
    """Return kind (int or float) and bounds of every field of a dataclass that holds a number or None."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        if (number := _number(_without_none(hint))) is not None:
            found[name] = number
    return found


@cache
def optional_fields(settings: type[Any]) -> set[str]:
    """Return the names of the fields of a dataclass that may be None."""
    return {name for name, hint in get_type_hints(settings).items() if type(None) in get_args(hint)}


@cache
def choice_fields(settings: type[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the choices of every field of a dataclass that is a `Literal`, or that or None."""
    hints = {name: _without_none(hint) for name, hint in get_type_hints(settings).items()}
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def describe(kind: type, bounds: tuple[Bound, ...]) -> str:
    """Describe a range in words: "an integer of at least 1"."""
    noun = "an integer" if kind is int else "a finite number"
    parts = [f"{words} {getattr(bound, name)}" for bound in bounds for name, _, words in [_BOUNDS[type(bound)]]]
    return f"{noun} {' and '.join(parts)}".strip()


def read_fields(section: type[Any], values: Any, name: str) -> Any:
    """Make a configuration dataclass from the values of its fields, as a file's header has them.

    Args:
        section: The dataclass.
        values: By field.
        name: What the section is called in the header.

    Raises:
        ValueError: There is a field that this version doesn't have, or an impossible value.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"the {name} configuration is {shorten(values)}, expected an object")
    unknown = values.keys() - {entry.name for entry in fields(section)}
    if unknown:
        raise ValueError(
            f"the {name} configuration has {min(unknown)!r}, which this version doesn't know: update DiffLoRA."
        )
    return section(**values)


def _without_none(hint: Any) -> Any:
    """Return X of the type hint `X | None`, and any other hint as it is."""
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if len(options) == 1 and type(None) in get_args(hint) else hint


def _number(hint: Any) -> tuple[type, tuple[Bound, ...]] | None:
    """Return kind and bounds of the number that a type hint stands for; None if it stands for something else."""
    kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind not in (int, float):
        return None
    return kind, tuple(bound for entry in metadata for bound in _bounds(entry))


def _bounds(entry: Any) -> Iterator[Bound]:
    if isinstance(entry, Bound):
        yield entry
    elif isinstance(entry, Interval):
        yield from (bound for bound in entry if isinstance(bound, Bound))


def _within(value: Any, bound: Bound) -> bool:
    name, compare, _ = _BOUNDS[type(bound)]
    return bool(compare(value, getattr(bound, name)))


def read_json(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: The JSON.
        what: What errors call it.

    Raises:
        ValueError: It is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shorten(value)}, expected a JSON object")
    return value


def read_json_file(path: Path, what: str = "") -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path: The file, in UTF-8.
        what: What errors call it; its path unless given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is in another encoding, is no JSON, or holds something else.
    """
    what = what or str(path)
    return read_json(read_utf8(path, what), what)


def read_utf8(path: Path, what: str) -> str:
    """Read a text file that people edit; what: what errors call it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is in another encoding: PowerShell's `>` writes UTF-16, older editors the system's own.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not in UTF-8 (byte {error.start}): save it as UTF-8") from error


def shorten(value: Any) -> str:
    """Show a value in a message, cut off where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of too many digits
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
