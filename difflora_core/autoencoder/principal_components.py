"""Principal components of LoRAs that need not fit into memory: columns are read slice by slice.

A few thousand LoRAs of millions of weights: the Gram matrix of all pairs of LoRAs is small, is summed over slices of
columns, and its eigenvectors give the principal components of any range of the vector, exactly and deterministically.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LORAS_FOR_PCA = 2048
"""The cost is the Gram matrix of all pairs; of more LoRAs every second, third, … is taken."""
MAX_EIGENPROBLEM_SIZE = 512
"""Largest matrix whose eigenvectors are computed exactly; beyond, the leading ones are iterated. SDXL's LAE needs those
of 2,840 matrices, of 968 rows where there are as many LoRAs: there iteration takes a sixth of the time and finds 0.999
of the energy, whose spectrum was flat."""
RANK_TOLERANCE = 1e-6
"""Of the largest eigenvalue: smaller ones are rounding, since float32 products are known to about 1e-7 of it."""
ITERATIONS = 12
"""Of orthogonal iteration."""
SLICE = 2**26
"""Weights of training LoRAs in memory at once, 256 MB."""
ENCODED_LORAS = 64
"""LoRAs of which a network encodes all columns at once."""

Read = Callable[[int, int], Tensor]
"""(start, stop) → this range of all normalized LoRAs, (loras, stop − start)."""
Span = tuple[int, int]
"""Start and stop of a range of the flat vector."""


class LoRAColumns(Protocol):
    """LoRAs of which a range of the flat vector can be read."""

    def __len__(self) -> int:
        """Number of LoRAs."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Read (loras, stop − start), float32."""
        ...


def slices(numel: int, loras: int) -> Iterator[Span]:
    """Cover `numel` weights by ranges, each of at most `SLICE` weights over all LoRAs."""
    step = max(1, SLICE // loras)
    for start in range(0, numel, step):
        yield start, min(start + step, numel)


def runs(spans: Sequence[Span], loras: int) -> Iterator[Sequence[int]]:
    """Join neighboring spans as long as they are within `SLICE` weights: their positions, in order."""
    first = 0
    for position in range(1, len(spans) + 1):
        if position == len(spans) or loras * (spans[position][1] - spans[first][0]) > SLICE:
            yield range(first, position)
            first = position


def read_spans(read: Read, spans: Sequence[Span], loras: int) -> Iterator[tuple[int, Tensor]]:
    """Read spans with as few reads as fit into memory: the position of each, and its weights (loras, size)."""
    for run in runs(spans, loras):
        offset = spans[run[0]][0]
        x = read(offset, spans[run[-1]][1])
        for position in run:
            start, stop = spans[position]
            yield position, x[:, start - offset : stop - offset]


def gram(read: Read, start: int, stop: int, loras: int) -> Tensor:
    """Compute the inner products (loras, loras), in float64, of all pairs of LoRAs over the range start…stop."""
    total: Tensor | None = None
    for begin, end in slices(stop - start, loras):
        x = read(start + begin, start + end)
        product = (x @ x.T).double()
        total = product if total is None else total + product
    if total is None:
        raise ValueError(f"Principal components need at least one weight, found the range {start} … {stop}.")
    return total


def scores_of_gram(products: Tensor, count: int) -> Tensor:
    """Compute the leading eigenvectors (n, count) of a Gram matrix (n, n), zero beyond its rank."""
    values, vectors = torch.linalg.eigh(products)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    vectors = vectors * (values > RANK_TOLERANCE * values[0])
    return F.pad(vectors, (0, count - vectors.shape[1]))


def principal_scores(x: Tensor, count: int) -> Tensor:
    """Compute the leading left singular vectors (n, count) of x (n, d), n ≤ d, zero beyond its rank.

    Through the Gram matrix in float64: exact, deterministic, and cheap because there are far fewer LoRAs than weights.
    """
    return scores_of_gram((x @ x.T).double(), count).to(x.dtype)


def principal_directions(x: Tensor, count: int) -> Tensor:
    """Compute the leading right singular vectors (d, count) of x (n, d).

    They are orthonormal also beyond its rank, and zero beyond d. They are made orthonormal by QR: a direction that
    hardly varies comes out of the Gram matrix with the large ones mixed in.
    """
    return wide(torch.linalg.qr(x.T @ principal_scores(x, count)).Q, count)


def leading_basis(loadings: Tensor, count: int) -> Tensor:
    """Compute an orthonormal basis (size, count) of what matters most to some components.

    Args:
        loadings: (size, components), how much each weight takes part in each component.
        count: Vectors of the basis; those beyond `size` are zero.
    """
    size, components = loadings.shape
    if size <= components:
        return leading_eigenvectors(loadings @ loadings.T, count)
    mixing = leading_eigenvectors(loadings.T @ loadings, min(count, components))
    # QR makes columns of zeros, beyond the components, orthonormal to the others, too
    return wide(torch.linalg.qr(wide(loadings @ mixing, min(count, size))).Q, count)


def leading_eigenvectors(symmetric: Tensor, count: int) -> Tensor:
    """Compute eigenvectors (n, count) of a positive matrix (n, n), largest eigenvalue first, zero columns beyond n.

    Large matrices by orthogonal iteration from the coordinates of the largest diagonal entries: deterministic, close
    enough to start from, and without the cubic cost.
    """
    size = len(symmetric)
    if size <= MAX_EIGENPROBLEM_SIZE or count > size // 4:
        return wide(torch.linalg.eigh(symmetric)[1].flip(1)[:, :count], count)
    basis = symmetric[:, symmetric.diagonal().topk(count).indices]
    for _ in range(ITERATIONS):
        basis = symmetric @ torch.linalg.qr(basis).Q
    orthonormal: Tensor = torch.linalg.qr(basis).Q
    return orthonormal


def wide(matrix: Tensor, columns: int) -> Tensor:
    """Append columns of zeros to a matrix, up to so many."""
    return F.pad(matrix, (0, columns - matrix.shape[1]))


def thinning(loras: int) -> int:
    """Return the step in which LoRAs are taken for the principal components: 1 takes all."""
    return math.ceil(loras / MAX_LORAS_FOR_PCA)
