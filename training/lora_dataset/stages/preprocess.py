"""Stage preprocess: images become latents, captions text embeddings, each computed once.

preprocess/<person>.safetensors     latents float16 (n, channels, h, w), scaled; metadata: their captions
preprocess/text/<hash>.safetensors  the text embeddings of one caption by one base model, shared by all people
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.files import read_tensors, write_tensors
from difflora_core.images import read_image
from training.base_model.interface import BaseModel, TextEmbeddings
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import hash_base, open_configured_base
from training.lora_dataset.fingerprints import Fingerprint, hash_face_models, hash_file, hash_value, settings_of
from training.lora_dataset.images.faces import largest_face, open_faces
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before


class Preprocess(Stage):
    """The stage. An item is a person."""

    name = "preprocess"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """Return the people whom the filter kept.

        Raises:
            ValueError: There are none.
        """
        return done_before(config, "filter")

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a person: the chosen images with their captions and positions, the base model, and how images are cut."""
        common = settings_of(config, "preprocess.size", "preprocess.margin", "dreambooth.dtype")
        common["base model"] = hash_base(config, "vae", "text_encoder", "text_encoder_2")
        if config.preprocess.margin > 0:
            common["face models"] = hash_face_models(config.faces)

        def fingerprint(person: str) -> Fingerprint:
            chosen, prompts = chosen_images(config, person)
            paths = [config.workspace / image["file"] for image in chosen]
            captions = [[image["file"], image["caption"]] for image in chosen]
            hashes = [hash_file(path) for path in paths]
            return {"images": hash_value(hashes), "captions": hash_value([captions, prompts]), **common}

        return fingerprint

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model, and the face detector where images are cropped around the face."""
        base = open_configured_base(config, device)
        encoder = open_faces(config.faces) if config.preprocess.margin > 0 else None
        return lambda item: _preprocess(config, base, encoder, item)


PREPROCESS = Preprocess()


def _preprocess(config: DatasetConfig, base: BaseModel, encoder: FaceEncoder | None, person: str) -> Record:
    """Encode one person's images and captions."""
    chosen, prompts = chosen_images(config, person)
    captions = [image["caption"] for image in chosen]
    for caption in dict.fromkeys(captions):
        ensure_text(config, base, caption)
    metadata = {
        "captions": json.dumps(captions),
        "positions": json.dumps([prompts.index(image["file"]) for image in chosen]),
        "prompt_count": str(len(prompts)),
        "size": str(config.preprocess.size),
    }
    latents = _encode(config, base, encoder, [image["file"] for image in chosen])
    path = prepared_path(config, person)
    write_tensors(path, {"latents": latents.half().contiguous()}, metadata)
    return Record(person, facts={"images": len(chosen), "size": config.preprocess.size})


def chosen_images(config: DatasetConfig, person: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return a person's images that are encoded, and the files of all that were generated, in the order of prompts."""
    filtered, generated = (Manifest(config.stage(name)).read(person) for name in ("filter", "generate"))
    assert filtered is not None
    assert generated is not None
    chosen = _choose(filtered.facts["kept"], config.preprocess.max_images)
    return chosen, [image["file"] for image in generated.facts["images"]]


def _choose(kept: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The first `count` images, all for 0, in the order of their numbers: the same prompts in the same positions."""
    return sorted(kept[: count or None], key=lambda image: (len(image["file"]), image["file"]))  # 1000 follows 999


def _encode(config: DatasetConfig, base: BaseModel, encoder: FaceEncoder | None, files: Sequence[str]) -> Tensor:
    """Latents of image files, on the CPU.

    Raises:
        ValueError: A file cannot be read, or a latent is not finite.
    """
    settings, squares = config.preprocess, []
    for file in files:
        image = read_image(config.workspace / file, file)
        box = None
        if encoder is not None:
            face = largest_face(encoder, image, file)
            box = face.boxes[face.chosen, :4].tolist()
        squares.append(crop_square(image, settings.size, box, settings.margin))
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    latents = torch.cat([base.encode_images(part.float() / 255.0).cpu() for part in pixels.split(settings.batch)])
    if not latents.isfinite().all():
        raise ValueError("the autoencoder's latent of an image holds NaN or infinite values")
    return latents


def crop_square(image: Image.Image, size: int, box: Sequence[float] | None = None, margin: float = 0.0) -> np.ndarray:
    """Crop the image's center square, or a square around a face that stays inside the image.

    Args:
        image: RGB.
        size: Pixels of the result's side.
        box: x1, y1, x2, y2 of the face.
        margin: On each side of the face, in face sizes.

    Returns:
        uint8 (size, size, 3).
    """
    width, height = image.size
    side, center = float(min(width, height)), (width / 2, height / 2)
    if box is not None:
        x1, y1, x2, y2 = box
        side = min(side, (1 + 2 * margin) * max(x2 - x1, y2 - y1))
        center = ((x1 + x2) / 2, (y1 + y2) / 2)
    left = min(max(0.0, center[0] - side / 2), width - side)
    top = min(max(0.0, center[1] - side / 2), height - side)
    if (width, height) == (size, size) and side == size:
        return np.asarray(image)
    crop = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=crop))


@dataclass(frozen=True)
class PreparedImages:
    """What this stage wrote of a person."""

    latents: Tensor
    """Scaled latents (n, channels, h, w) float32."""
    captions: list[str]
    """One per image."""
    positions: list[int]
    """Each image's position in the list of prompts."""
    prompt_count: int
    """Length of the list of prompts."""

    def split(self, held_out: int) -> tuple[Self, Self]:
        """Return the images to train on, and the last `held_out`, which are kept from training.

        Raises:
            ValueError: No image would be left to train on.
        """
        cut = len(self.captions) - held_out
        if cut < 1:
            raise ValueError(
                f"{len(self.captions)} images, of which preprocess.held_out keeps {held_out}: none is left"
            )
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, part: slice) -> Self:
        latents, captions, positions = self.latents[part], self.captions[part], self.positions[part]
        return replace(self, latents=latents, captions=captions, positions=positions)


def prepared_path(config: DatasetConfig, person: str) -> Path:
    """Return the file of a person's latents."""
    return config.stage(PREPROCESS.name) / f"{person}.safetensors"


def read_prepared(config: DatasetConfig, person: str) -> PreparedImages:
    """Read what this stage wrote of a person.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It was made at another size than the configuration now says, or is damaged.
    """
    path = prepared_path(config, person)
    tensors, metadata = read_tensors(path)
    lacking = ({"latents"} - tensors.keys()) | ({"size", "captions", "positions", "prompt_count"} - metadata.keys())
    if lacking:
        raise ValueError(
            f"{path} holds no prepared images: it has no {', '.join(sorted(lacking))}. Delete {person}.json beside it "
            "and run the stage `preprocess` again"
        )
    if metadata["size"] != str(config.preprocess.size):
        raise ValueError(
            f"{path} holds latents of {metadata['size']} pixels, the configuration says {config.preprocess.size}: "
            "run the stage preprocess again, without --keep"
        )
    return PreparedImages(
        tensors["latents"].float(),
        json.loads(metadata["captions"]),
        json.loads(metadata["positions"]),
        int(metadata["prompt_count"]),
    )


def text_path(config: DatasetConfig, caption: str) -> Path:
    """Return the file of a caption's embeddings by the configured base model."""
    encoders = hash_base(config, "text_encoder", "text_encoder_2")
    name = hash_value([caption, encoders, config.dreambooth.dtype])
    return config.stage(PREPROCESS.name) / "text" / f"{name}.safetensors"


def ensure_text(config: DatasetConfig, base: BaseModel, caption: str) -> None:
    """Encode a caption, unless that has been done."""
    path = text_path(config, caption)
    if not path.exists():
        texts = base.encode_text([caption])
        tensors = {name: tensor[0].float().cpu().contiguous() for name, tensor in texts.items()}
        write_tensors(path, tensors, {"caption": caption})


def read_texts(config: DatasetConfig, captions: Sequence[str]) -> TextEmbeddings:
    """Read the embeddings, float32, of captions that were encoded.

    Raises:
        FileNotFoundError: A caption was not encoded.
    """
    tables = [read_tensors(text_path(config, caption))[0] for caption in captions]
    return {name: torch.stack([table[name] for table in tables]) for name in tables[0]}
