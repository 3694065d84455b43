"""Face encoders of methods and metrics compute where the evaluation does: seconds of methods are compared."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from difflora_core.encoders.face_encoder import FaceEncoder, Provider
from tests.training.evaluation.small_evaluation import SmallEvaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.instant_id import InstantIDMethod
from training.evaluation.methods.shared_base import SharedBase
from training.evaluation.metric_list import metric_sources
from training.evaluation.settings import FaceMetricSettings, MetricSettings

GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[Provider]]:
    """Providers of each face encoder that is opened, with an onnxruntime for GPUs."""
    found: list[list[Provider]] = []
    analysis = SimpleNamespace(models={"recognition": SimpleNamespace(model_file=tmp_path / "r.onnx")}, model_dir="x")

    def open_encoder(name: str, root: Path, providers: list[Provider]) -> Any:
        found.append(providers)
        return SimpleNamespace(analysis=analysis, name=name)

    monkeypatch.setattr(FaceEncoder, "open", open_encoder)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [GPU, CPU])
    return found


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda:0", [GPU, CPU]), ("cuda:1", [(GPU, {"device_id": 1}), CPU]), ("cpu", [CPU])]
)
def test_face_encoders_are_on_the_device(
    small: SmallEvaluation, opened: list[list[Provider]], device: str, expected: list[Provider]
) -> None:
    sources = metric_sources(MetricSettings(FaceMetricSettings("neutral", small.folder)), device)
    sources[0].open()
    method = MethodSettings("instantid", small.folder, face_models=small.folder)
    _ = InstantIDMethod(SharedBase(small.settings(), device), method, "person").faces
    assert opened == [expected, expected]
