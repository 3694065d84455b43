"""The networks of DiffLoRA and their mathematics: no ComfyUI, no training.

from difflora_core import DiffLoRA
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import DiffLoRA, LoRA

__all__ = ["DiffLoRA", "LoRA"]


def __getattr__(name: str) -> Any:
    """DiffLoRA and LoRA on first use: ComfyUI imports this package at every start, and they bring diffusers."""
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
