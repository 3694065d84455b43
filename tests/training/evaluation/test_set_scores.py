"""FID and KID in the report, with features that need no network."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from difflora_core.images import ImageSource, rgb_array
from tests.training.evaluation.small_evaluation import SIZE, SmallEvaluation
from tests.training.evaluation.small_models import write_dino
from training.evaluation.method_settings import MethodSettings
from training.evaluation.metrics.distributions.inception_features import InceptionFeatures
from training.evaluation.metrics.metric import Description
from training.evaluation.settings import REAL, DistanceSettings, MetricSettings


class MeanColors:
    """Mean color of an image."""

    description = Description("mean colors", "mean", "none", "ours")
    calls = 0

    def __call__(self, images: Sequence[ImageSource], what: str = "image") -> Tensor:
        type(self).calls += 1
        return torch.tensor(np.array([rgb_array(image, what).mean((0, 1)) / 255 for image in images]))


@pytest.fixture
def metrics(small: SmallEvaluation, monkeypatch: pytest.MonkeyPatch) -> MetricSettings:
    monkeypatch.setattr(InceptionFeatures, "open", lambda path, device: MeanColors())
    (small.folder / "inception.pth").write_bytes(b"weights")
    write_real(small, 24)
    return MetricSettings(distances=DistanceSettings(small.folder / "real", "dark", small.folder / "inception.pth"))


def write_real(small: SmallEvaluation, count: int) -> None:
    """Dark images, as dark as those without a LoRA."""
    (small.folder / "real").mkdir(exist_ok=True)
    for number, color in enumerate(np.random.default_rng(0).integers(0, 127, (count, 3))):
        Image.new("RGB", (SIZE, SIZE), tuple(color.tolist())).save(small.folder / "real" / f"{number:02d}.png")


def test_sets_are_compared_with_real_images(small: SmallEvaluation, metrics: MetricSettings) -> None:
    path = small.evaluation(metrics=metrics).run()
    values = small.report()["sets"]["values"]
    assert values.keys() == {"none", "own", REAL}
    assert values[REAL]["FID"] < values["own"]["FID"]
    assert values["none"]["FID"] < values["own"]["FID"]
    assert "12 generated and as many real images: dark" in path.with_name("report.md").read_text()
    calls = MeanColors.calls
    small.evaluation(metrics=metrics).run()
    assert MeanColors.calls == calls
    assert small.report()["sets"]["values"] == values


def test_what_can_not_be_compared_is_said(small: SmallEvaluation, metrics: MetricSettings) -> None:
    (small.folder / "loras" / "bob.safetensors").write_bytes(b"")
    (small.folder / "real" / "00.png").unlink()
    small.evaluation(metrics=metrics).run()
    report = small.report()
    assert report["sets"]["values"].keys() == {"none"}
    remarks = "\n".join(report["not_measured"])
    assert "FID of own: it lacks images of some people" in remarks
    assert "FID of real images: 24 would be needed, 23 are there" in remarks
    for path in sorted((small.folder / "real").glob("*.png"))[5:]:
        path.unlink()
    small.evaluation(metrics=metrics).run()
    assert "has 5 real images, each method 12" in "\n".join(small.report()["not_measured"])


def test_dino_is_another_network_of_the_same_distances(small: SmallEvaluation, metrics: MetricSettings) -> None:
    assert metrics.distances is not None
    dino = str(write_dino(small.folder / "dino"))
    both = MetricSettings(dino=dino, distances=replace(metrics.distances, dino=True))
    path = small.evaluation(metrics=both).run()
    sets = small.report()["sets"]
    names = ["FID", "KID × 1000", "FID, DINO ViT-32/16", "KID × 1000, DINO ViT-32/16"]
    assert [list(found) for found in sets["values"].values()] == [names] * 3
    assert sets["values"][REAL]["FID, DINO ViT-32/16"] < sets["values"]["own"]["FID, DINO ViT-32/16"]
    assert [about["model"] for about in sets["descriptions"]] == ["mean colors", f"DINO ViT-32/16, {dino}"]
    assert f"DINO ViT-32/16, {dino}; class token" in path.with_name("report.md").read_text()
    alone = replace(both, distances=replace(metrics.distances, inception=None, dino=True))
    small.evaluation(metrics=alone).run()
    found = small.report()["sets"]["values"]
    assert found == {method: {name: own[name] for name in names[2:]} for method, own in sets["values"].items()}


def test_a_network_is_named(metrics: MetricSettings) -> None:
    assert metrics.distances is not None
    with pytest.raises(ValueError, match="distances names no network"):
        replace(metrics.distances, inception=None)
    with pytest.raises(ValueError, match=r"distances\.dino is true, but metrics name no DINO model"):
        MetricSettings(distances=replace(metrics.distances, dino=True))


def test_no_method_has_the_name_of_the_real_images(small: SmallEvaluation, metrics: MetricSettings) -> None:
    methods = {REAL: MethodSettings("images", small.folder / "photos")}
    assert small.settings(methods=methods).baseline == REAL
    with pytest.raises(ValueError, match="'real images' is a row of FID and KID already"):
        small.settings(methods=methods, metrics=metrics)


def test_missing_files_are_named_first(small: SmallEvaluation, metrics: MetricSettings) -> None:
    (small.folder / "inception.pth").unlink()
    evaluation = small.evaluation(metrics=metrics)
    assert "the network of FID is missing" in list(evaluation.describe())[-1]
    with pytest.raises(FileNotFoundError, match="the network of FID is missing"):
        evaluation.run()
    assert small.base.generated == 0
