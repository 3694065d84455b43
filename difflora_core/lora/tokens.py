"""A LoRA as a sequence of tokens: one per module, or one per transformer block of the base model."""

from dataclasses import dataclass
from typing import Literal

from .layout import LoRALayout

TokenOf = Literal["module", "block"]
"""What one token is."""


@dataclass(frozen=True)
class Tokens:
    """Size, type and depth of every token, in the layout's order.

    The paper has nothing of the kind; types and depths are after Text-to-LoRA (arXiv 2506.06105).
    """

    sizes: tuple[tuple[int, ...], ...]
    """Sizes of the modules in each token, in flat order."""
    types: tuple[int, ...]
    """Index of each token's type: tokens of one type have modules of the same names (attn1.to_q, …)."""
    depths: tuple[int, ...]
    """Index of each token's transformer block, along the signal."""


def tokens_of(layout: LoRALayout, token_of: TokenOf = "module") -> Tokens:
    """Group the modules of a layout into tokens: each on its own, or neighbors of one transformer block together."""
    sizes: list[tuple[int, ...]] = []
    kinds: list[tuple[str, ...]] = []
    blocks: list[str] = []
    for module in layout.modules:
        size = layout.rank * (module.in_features + module.out_features)
        block, kind = layout.base.split(module.name)
        if token_of == "block" and blocks and blocks[-1] == block:
            sizes[-1], kinds[-1] = (*sizes[-1], size), (*kinds[-1], kind)
        else:
            sizes.append((size,))
            kinds.append((kind,))
            blocks.append(block)
    return Tokens(tuple(sizes), _indices(kinds), _indices(blocks))


def _indices(labels: list[str] | list[tuple[str, ...]]) -> tuple[int, ...]:
    """Number the distinct labels in the order in which they first appear."""
    order = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return tuple(order[label] for label in labels)
