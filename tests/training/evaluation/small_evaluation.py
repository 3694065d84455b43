"""An evaluation of drawn color fields: a base model and a metric that need no network."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from difflora_core.files import write_tensors
from difflora_core.images import rgb_array
from difflora_core.seeds import generator_for
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.shared_base import SharedBase
from training.evaluation.metric_list import MetricSource
from training.evaluation.metrics.metric import Better, Description, PersonSample, Scores
from training.evaluation.settings import EvaluationSettings

SIZE = 32
PEOPLE = ("ann", "bob", "cy")


class ColorBase:
    """Images of one color, drawn from their seed; a LoRA file adds its brightness."""

    def __init__(self) -> None:
        self.brightness = 0.0
        self.generated = 0
        self.fails_after: int | None = None

    def generate(
        self,
        captions: Sequence[str],
        size: int,
        steps: int,
        guidance: float,
        seed: Sequence[int],
        batch: int = 4,
        negative: str = "",
    ) -> Tensor:
        if self.fails_after is not None and self.generated + len(captions) > self.fails_after:
            raise KeyboardInterrupt
        self.generated += len(captions)
        colors = [torch.rand(3, generator=generator_for(s, c)) for s, c in zip(seed, captions, strict=True)]
        level = 0.5 * torch.stack(colors) + self.brightness
        return level[:, :, None, None].expand(-1, -1, size, size).clamp(0, 1)

    @contextmanager
    def loaded_lora_file(self, path: Path) -> Iterator[None]:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        self.brightness = 0.4
        try:
            yield
        finally:
            self.brightness = 0.0

    @contextmanager
    def lora_on_positive_side(self) -> Iterator[None]:
        self.brightness += 0.1
        yield


class Brightness:
    """Mean brightness, and one value for a person."""

    opened = 0
    columns: Mapping[str, Better] = {"brightness": "higher", "spread": "neither"}
    description = Description("none", "mean of pixels", "none", "ours")

    def __init__(self) -> None:
        type(self).opened += 1

    def score(self, sample: PersonSample) -> Scores:
        means = np.array([rgb_array(image, "image").mean() / 255 for image in sample.images])
        return {"brightness": means, "spread": np.array([means.std()])}


class SmallEvaluation:
    """A folder with people, prompts and LoRAs, and a base model."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.base, self.version = folder, ColorBase(), "1"
        for number, name in enumerate(PEOPLE):
            for part, count in (("references", 2), ("others", 1)):
                for image in range(count):
                    path = folder / "people" / name / part / f"{image}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (SIZE, SIZE), (40 * number, 20 * image, 90)).save(path)
            factors = {"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(4, 2)}
            write_tensors(folder / "loras" / f"{name}.safetensors", factors)
        self.write_prompts(clothing=["a {person} in red"], view=["a {person} from above"])
        monkeypatch.setattr(SharedBase, "model", self.base)
        monkeypatch.setattr(
            SharedBase, "fingerprint", property(lambda shared: {"settings.steps": shared.settings.steps})
        )

    def write_prompts(self, **kinds: Sequence[str]) -> None:
        (self.folder / "prompts.yaml").write_text(json.dumps(kinds))

    def settings(self, **changes: object) -> EvaluationSettings:
        values: dict[str, object] = {
            "people": self.folder / "people",
            "prompts": self.folder / "prompts.yaml",
            "base": self.folder / "base",
            "output": self.folder / "output",
            "methods": {"none": MethodSettings("none"), "own": MethodSettings("lora", self.folder / "loras")},
            "seeds": (0, 1),
            "size": SIZE,
            "batch": 3,
        }
        return EvaluationSettings(**{**values, **changes})  # type: ignore[arg-type]

    def evaluation(self, keep: bool = False, **changes: object) -> Evaluation:
        source = MetricSource("brightness", Brightness, lambda: {"model": self.version})
        return Evaluation(self.settings(**changes), "cpu", [source], keep)

    def images(self) -> dict[str, bytes]:
        folder = self.folder / "output" / "images"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}

    def report(self) -> dict:
        return json.loads((self.folder / "output" / "report.json").read_text())
