"""Shared by all tests: torch on one thread, and how several processes share them (`pytest -n 2 --dist loadgroup`)."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
HOST = Path(__file__).parent / "host"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and those of the one ComfyUI, too: they share fixtures."""
    for item in items:
        together = HOST if HOST in item.path.parents else item.path
        item.add_marker(pytest.mark.xdist_group(together.as_posix()))
