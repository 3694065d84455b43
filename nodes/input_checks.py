"""Checks of what arrives at a node's widgets, in one place for all nodes.

The host checks ranges when a workflow is queued, but lets NaN pass, does not check the choices of a combo, and knows
nothing of values that come over a link.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from comfy_api.latest import io

MAX_CHOICES = 20
"""Choices that a message names; a folder may hold hundreds of files."""


def with_checked_inputs(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Let a node check all of its widgets' values before it does any work.

    Args:
        node: Its `execute` is replaced.

    Returns:
        The same class.
    """
    execute: Callable[..., io.NodeOutput] = node.execute.__func__

    @wraps(execute)
    def checked(cls: type[io.ComfyNode], **arguments: Any) -> io.NodeOutput:
        check_inputs(cls.define_schema(), arguments)
        return execute(cls, **arguments)

    node.execute = classmethod(checked)
    return node


def takes_lists(*names: str) -> Callable[[Callable[..., io.NodeOutput]], Callable[..., io.NodeOutput]]:
    """Let `execute` of a node with `is_input_list` get lists at some inputs only, and the one value at all others.

    Args:
        names: The inputs that get lists.

    Returns:
        The decorator of `execute`. A list of several values at another input is a ValueError that names the input.
    """

    def decorate(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
        @wraps(execute)
        def with_single_values(cls: type[io.ComfyNode], **arguments: list[Any]) -> io.NodeOutput:
            single = {name: _only(name, values) for name, values in arguments.items() if name not in names}
            return execute(cls, **(arguments | single))

        return with_single_values

    return decorate


def _only(name: str, values: list[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(f"`{name}` takes one value, found a list of {len(values)}")
    return values[0]


def check_inputs(schema: io.Schema, arguments: dict[str, Any]) -> None:
    """Check the values of a node's number, combo and on-off inputs against its schema.

    Args:
        schema: The node's, with the choices of now.
        arguments: What `execute` is called with, by input.

    Raises:
        ValueError: Names the first input whose value is not a number in its range, not one of its choices, or neither
            on nor off.
    """
    for declared in schema.inputs:
        if declared.id not in arguments:
            continue
        value = arguments[declared.id]
        for one in value if schema.is_input_list else [value]:
            if isinstance(declared, io.Combo.Input):
                _check_choice(declared, one)
            elif isinstance(declared, io.Int.Input | io.Float.Input):
                _check_number(declared, one)
            elif isinstance(declared, io.Boolean.Input):
                _check_switch(declared, one)


def _check_choice(declared: io.Combo.Input, value: Any) -> None:
    choices: list[Any] = list(declared.options or ())
    if value not in choices:
        named = ", ".join(map(str, choices[:MAX_CHOICES])) or "none"
        more = f" and {len(choices) - MAX_CHOICES} more" if len(choices) > MAX_CHOICES else ""
        raise ValueError(
            f"`{declared.id}` is {value!r}, which is no choice of this node; the choices are {named}{more}"
        )


def _check_number(declared: io.Int.Input | io.Float.Input, value: Any) -> None:
    whole = isinstance(declared, io.Int.Input)
    is_number = isinstance(value, int | float) and not (whole and value % 1)
    if not is_number or not declared.min <= value <= declared.max:  # NaN is in no range
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"`{declared.id}` is {value!r}; it takes {kind} from {declared.min} to {declared.max}")


def _check_switch(declared: io.Boolean.Input, value: Any) -> None:
    if not isinstance(value, int | float) or value not in (0, 1):  # the text "false" would be taken for true
        raise ValueError(f"`{declared.id}` is {value!r}; it takes a switch's value, true or false")
