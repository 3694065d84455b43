"""The base model that methods share, loaded when the first of them generates."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from training.base_model.interface import DTYPES, BaseModel
from training.base_model.sdxl import SDXLBase
from training.base_model.sdxl_folder import NETWORKS, check_folder, folder_fingerprint
from training.lora_dataset.fingerprints import Fingerprint, hash_files, hash_value

from ..settings import EvaluationSettings
from .method import ImageRequest, MadeImage, Preparation


class SharedBase:
    """The base model with the settings' sampler."""

    def __init__(self, settings: EvaluationSettings, device: str) -> None:
        """Name the folder, which need not be there where no method uses it; see `fingerprint`."""
        self.settings, self.device = settings, device

    @cached_property
    def model(self) -> BaseModel:
        """The base model, on its device."""
        return self.open_copy()

    def open_copy(self) -> SDXLBase:
        """Load the base model once more, for a method that changes it."""
        base = SDXLBase.open(self.settings.base, self.device, DTYPES[self.settings.dtype])
        if self.settings.sampler is not None:
            base.use_sampler(self.settings.sampler)
        return base

    def release(self) -> None:
        """Free the base model; it is loaded again when it is needed."""
        self.__dict__.pop("model", None)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What images depend on that the shared base model makes.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It is another model.
        """
        check_folder(self.settings.base)
        found = folder_fingerprint(self.settings.base, NETWORKS)
        names = ("size", "sampler", "steps", "guidance_scale", "negative", "dtype")
        return {
            "base model": hash_value([found[network] for network in NETWORKS]),
            "base model's scheduler": hash_files([self.settings.base / "scheduler" / "scheduler_config.json"]),
            **{f"settings.{name}": getattr(self.settings, name) for name in names},
        }

    @property
    def training_fingerprint(self) -> Fingerprint:
        """What training through the shared base model depends on; it fails as `fingerprint` does."""
        shared = self.fingerprint
        return {name: shared[name] for name in ("base model", "settings.size", "settings.dtype") if name in shared}

    def generate(self, requests: Sequence[ImageRequest], subject: str) -> list[MadeImage]:
        """Generate images with whatever the base model holds, `subject` in place of {person}."""
        settings, start = self.settings, time.perf_counter()
        images = self.model.generate(
            [request.prompt.of(subject) for request in requests],
            settings.size,
            settings.steps,
            settings.guidance_scale,
            [request.noise_seed for request in requests],
            settings.batch,
            settings.negative,
        )
        seconds = (time.perf_counter() - start) / len(requests)
        return [MadeImage(as_image(image), seconds) for image in images]


class ReadyBase:
    """The shared base model as it is, or as a block has changed it."""

    def __init__(self, base: SharedBase, subject: str, preparation: Preparation | None = None) -> None:
        self.base, self.subject, self.preparation = base, subject, preparation or Preparation()

    @property
    def facts(self) -> dict[str, Any]:
        """What the preparation took."""
        return asdict(self.preparation)

    def generate(self, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        """Generate images."""
        return self.base.generate(requests, self.subject)


def as_image(pixels: Tensor) -> Image.Image:
    """Round an image (3, height, width) in [0, 1] to 8 bits.

    Raises:
        RuntimeError: It is not finite.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise RuntimeError("an image is not finite: the base model overflows in its dtype")
    array = pixels.float().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)
