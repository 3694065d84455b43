"""A check of what has a row for each person or candidate: conditions, latents, LoRAs."""

from collections.abc import Sequence

from torch import Tensor


def check_rows(name: str, rows: Tensor, dimensions: Sequence[str]) -> None:
    """Check that there is at least one row, and no NaN.

    Args:
        name: What the rows are, in plural, for the error.
        rows: The tensor.
        dimensions: Names of its dimensions, for the error.

    Raises:
        ValueError: Another number of dimensions, an empty tensor, or NaN or infinite values.
    """
    if rows.ndim != len(dimensions) or 0 in rows.shape:
        raise ValueError(f"{name} are ({', '.join(dimensions)}), at least one; found {tuple(rows.shape)}.")
    finite = rows.flatten(1).isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"{name} hold NaN or infinite values, first in row {int((~finite).nonzero()[0])} of {len(rows)}: what was "
            "computed before is broken, or the dtype is too small for it."
        )
