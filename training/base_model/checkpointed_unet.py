"""Gradient checkpointing of a frozen U-Net: less memory, and about a third more time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def checkpointed(unet: Any, enabled: bool) -> Iterator[None]:
    """While open, a diffusers U-Net computes its activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: The network has no gradient checkpointing.
    """
    if not enabled:
        yield
        return
    if not hasattr(unet, "enable_gradient_checkpointing"):
        raise ValueError(f"{type(unet).__name__} has no gradient checkpointing; train without it")
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
