"""Training and measuring one setting of the grid after another; what is done is kept, until its inputs change.

<folder>/<setting>.safetensors  loras float16 (people, numel); metadata: seconds of training, what it was made from
<folder>/<setting>.png          an image of each person, one below another
<folder>/<setting>.json         the measures, written last
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from difflora_core.files import read_tensors, replacing, write_tensors
from difflora_core.images import write_image
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base
from training.lora_dataset.fingerprints import hash_file, hash_value, settings_of
from training.lora_dataset.stages.preprocess import prepared_path
from training.lora_dataset.stages.train_loras import Teacher, training_fingerprint

from .grid import TeacherSetting
from .pilot_people import kept_out_files
from .setting_measures import Measurer, Measures
from .settings_sheet import image_column

WITHOUT = "without"
"""Name of the files of what is measured without any LoRA."""


@dataclass(frozen=True)
class Outcome:
    """What came of one setting."""

    setting: TeacherSetting
    """Which one."""
    seconds: float
    """Of training, for each person."""
    measures: Measures | None
    """None if the training failed."""
    failed: str = ""
    """Why."""


@dataclass(frozen=True)
class SettingRun:
    """What trains and measures settings."""

    folder: Path
    """Of the results."""
    measurer: Measurer
    """On the people who are trained."""
    measured_by: Mapping[str, str]
    """Hashes of the models that measure, by name."""

    def run_all(self, settings: Sequence[TeacherSetting]) -> tuple[Measures, list[Outcome]]:
        """Train and measure what is not done, with a progress bar of training steps.

        Returns:
            The measures without any LoRA, and an outcome for each setting, in order.
        """
        with tqdm(total=sum(setting.steps for setting in settings), unit="step", desc="pilot") as progress:
            progress.set_postfix_str("without a LoRA")
            without = self.measure_without()
            outcomes = []
            for number, setting in enumerate(settings, start=1):
                progress.set_postfix_str(f"setting {number} of {len(settings)}")
                start = progress.n
                outcomes.append(self.run(setting, lambda _: progress.update()))
                progress.update(start + setting.steps - progress.n)
        return without, outcomes

    def measure_without(self) -> Measures:
        """Measure the base model without any LoRA."""
        layout = self.measurer.base.layout(1, False)
        zeros = torch.zeros(len(self.measurer.people), layout.numel)
        return self._measures(WITHOUT, {}, lambda: self.measurer.measure(zeros, layout))

    def run(self, setting: TeacherSetting, on_step: Callable[[int], None]) -> Outcome:
        """Train and measure one setting, as far as that is not done."""
        dreambooth = setting.applied(self.measurer.config.dreambooth)
        config = replace(self.measurer.config, dreambooth=dreambooth)
        inputs = training_inputs(config, self.measurer.people)
        loras, seconds = self._loras(setting, config, inputs, on_step)
        broken = int((~loras.isfinite().all(1)).sum())
        if broken:
            return Outcome(setting, seconds, None, f"{broken} of {len(loras)} trainings ended in NaN")
        layout = self.measurer.base.layout(setting.rank, setting.feed_forward)
        return Outcome(
            setting, seconds, self._measures(setting.name, inputs, lambda: self.measurer.measure(loras, layout))
        )

    def _loras(
        self, setting: TeacherSetting, config: DatasetConfig, inputs: Mapping[str, Any], on_step: Callable[[int], None]
    ) -> tuple[Tensor, float]:
        """Return LoRAs (people, numel) float16 and the seconds that each person's took, read from the file."""
        path = self.folder / f"{setting.name}.safetensors"
        digest = hash_value(inputs)
        if not path.exists() or read_tensors(path)[1].get("inputs") != digest:
            try:
                loras, seconds = self._train(config, on_step)
            except torch.OutOfMemoryError as error:
                raise RuntimeError(f"{setting} takes more memory than there is; lower dreambooth.people") from error
            write_tensors(path, {"loras": loras.half()}, {"inputs": digest, "seconds": repr(seconds)})
        tensors, metadata = read_tensors(path)
        return tensors["loras"], float(metadata["seconds"])

    def _train(self, config: DatasetConfig, on_step: Callable[[int], None]) -> tuple[Tensor, float]:
        """Train all people, in batches of at most `dreambooth.people`.

        Returns:
            LoRAs (people, numel) on the CPU, and the seconds that each person's took.
        """
        teacher, found = Teacher.on(config, self.measurer.base), []
        people = {name: own for name, (own, _) in zip(self.measurer.people, self.measurer.images, strict=True)}
        names, size, start = list(people), config.dreambooth.people, time.monotonic()
        for first in range(0, len(names), size):
            group = {name: people[name] for name in names[first : first + size]}
            found.append(teacher.train(group, on_step if first == 0 else None)[0].cpu())
        return torch.cat(found), (time.monotonic() - start) / len(names)

    def _measures(
        self, name: str, inputs: Mapping[str, Any], measure: Callable[[], tuple[Measures, Sequence[Any]]]
    ) -> Measures:
        """Read what was measured, or measure."""
        path, digest = self.folder / f"{name}.json", hash_value([dict(inputs), self._measuring_inputs()])
        if (known := _read_measures(path, digest)) is not None:
            return known
        measures, images = measure()
        write_image(path.with_suffix(".png"), image_column(images))
        with replacing(path) as partial:
            partial.write_text(json.dumps({"inputs": digest, "measures": asdict(measures)}, indent=1), "utf-8")
        return measures

    def _measuring_inputs(self) -> dict[str, Any]:
        config, people = self.measurer.config, self.measurer.people
        names = [f"verify.{entry.name}" for entry in fields(config.verify) if entry.name != "people"]
        images = [hash_file(file) for person in people for file in kept_out_files(config, person)]
        prepared = [hash_file(prepared_path(config, person)) for person in people]
        base = hash_base(config, "unet", "vae", "text_encoder", "text_encoder_2")
        common = {"images": images, "prepared": prepared, "base model": base, **self.measured_by}
        return {**common, **settings_of(config, *names, "dreambooth.dtype")}


def training_inputs(config: DatasetConfig, people: Sequence[str]) -> dict[str, Any]:
    """Return what the LoRAs of some people depend on, ready for JSON."""
    images = {person: hash_file(prepared_path(config, person)) for person in people}
    return {"images": images, **training_fingerprint(config)}


def _read_measures(path: Path, digest: str) -> Measures | None:
    """Read what was measured of the same; None if there is nothing, or it is of something else or damaged."""
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["inputs"] != digest or not path.with_suffix(".png").is_file():
            return None
        measures = values["measures"]
        return Measures(**measures | {"likeness_by_person": tuple(measures["likeness_by_person"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
