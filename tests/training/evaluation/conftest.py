from pathlib import Path

import pytest

from tests.training.evaluation.small_evaluation import SmallEvaluation


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallEvaluation:
    return SmallEvaluation(tmp_path, monkeypatch)
