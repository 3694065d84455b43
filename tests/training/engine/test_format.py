"""Numbers as people read them."""

import pytest

from training.engine.format import format_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.7, "1 KB"), (1_210_000_000, "1.21 GB"), (999_600, "1 MB"), (2e15, "2e+03 TB")],
)
def test_bytes_have_three_digits_and_a_unit(count, text):
    assert format_bytes(count) == text
