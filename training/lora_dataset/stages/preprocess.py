"""Stage preprocess: pictures → latents, captions → text embeddings, each computed once.

preprocess/<person>.safetensors     latents float16 (n, 4, h, w), scaled; metadata: their captions
preprocess/text/<hash>.safetensors  context (77, width) and pooled (width) of one caption, shared by all people
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflora_core.files import read_tensors, write_tensors
from difflora_core.images import read_picture
from training.base_model.sdxl import DTYPES, SDXLBase
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.images.faces import largest_face, open_faces
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Worker


class Preprocess:
    """The stage."""

    name = "preprocess"
    gpu = True

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """People whom the filter kept."""
        return Manifest(config.stage("filter")).done()

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Loads the base model; the face detector only where pictures are cropped around the face."""
        base = SDXLBase.open(config.base, device, DTYPES[config.dreambooth.dtype])
        encoder = open_faces(config.faces) if config.preprocess.margin > 0 else None
        kept, generated = Manifest(config.stage("filter")), Manifest(config.stage("generate"))

        def work(item: str) -> Record:
            record, source = kept.read(item), generated.read(item)
            assert record is not None
            assert source is not None
            pictures = _chosen(record.facts["kept"], config.preprocess.pictures)
            order = [picture["file"] for picture in source.facts["pictures"]]
            places = [order.index(picture["file"]) for picture in pictures]
            captions = [picture["caption"] for picture in pictures]
            for caption in dict.fromkeys(captions):
                keep_text(config, base, caption)
            squares = []
            for picture in pictures:
                image = read_picture(config.workspace / picture["file"], picture["file"])
                box = None if encoder is None else _box(largest_face(encoder, image, picture["file"]))
                squares.append(square(image, config.preprocess.size, box, config.preprocess.margin))
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
            latents = torch.cat(
                [base.encode_pictures(part.float() / 255.0).cpu() for part in pixels.split(config.preprocess.batch)]
            )
            if not latents.isfinite().all():
                raise ValueError("the autoencoder made NaN or infinite numbers of a picture")
            path = config.stage(self.name) / f"{item}.safetensors"
            about = {"captions": json.dumps(captions), "places": json.dumps(places), "of": str(len(order))}
            write_tensors(path, {"latents": latents.half().contiguous()}, about)
            return Record(item, facts={"pictures": len(pictures), "size": config.preprocess.size})

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Nothing: people don't depend on each other."""


PREPROCESS = Preprocess()


@dataclass(frozen=True)
class Prepared:
    """A person's training pictures. latents: (n, 4, h, w) float32. places: of each among `of` generated pictures."""

    latents: Tensor
    captions: list[str]
    places: list[int]
    of: int

    def split(self, held_out: int) -> tuple["Prepared", "Prepared"]:
        """Pictures to train on, and the last `held_out`, which are kept from training.

        Raises:
            ValueError: nothing would be left to train on.
        """
        cut = len(self.captions) - held_out
        if cut < 1:
            raise ValueError(
                f"{len(self.captions)} pictures, of which preprocess.held_out keeps {held_out}: none is left"
            )
        parts = (slice(None, cut), slice(cut, None))
        train, kept = (
            replace(self, latents=self.latents[p], captions=self.captions[p], places=self.places[p]) for p in parts
        )
        return train, kept


def read_prepared(config: DatasetConfig, person: str) -> Prepared:
    """What this stage left of a person.

    Raises:
        ValueError: it was made at another size than the configuration now says.
    """
    path = config.stage(PREPROCESS.name) / f"{person}.safetensors"
    tensors, about = read_tensors(path)
    latents, side = tensors["latents"], config.preprocess.size // 8
    if latents.shape[-1] != side:
        raise ValueError(
            f"{path} holds latents of {latents.shape[-1] * 8} pixels, the configuration says {side * 8}: delete the "
            "folder preprocess and run the stage again"
        )
    return Prepared(latents.float(), json.loads(about["captions"]), json.loads(about["places"]), int(about["of"]))


def text_path(config: DatasetConfig, caption: str) -> Path:
    """Where a caption's embeddings are kept."""
    digest = hashlib.sha256(caption.encode("utf-8")).hexdigest()[:16]
    return config.stage(PREPROCESS.name) / "text" / f"{digest}.safetensors"


def keep_text(config: DatasetConfig, base: SDXLBase, caption: str) -> None:
    """Encode a caption, unless that has been done."""
    path = text_path(config, caption)
    if not path.exists():
        context, pooled = base.encode_text([caption])
        tensors = {"context": context[0].float().cpu().contiguous(), "pooled": pooled[0].float().cpu().contiguous()}
        write_tensors(path, tensors, {"caption": caption})


def read_texts(config: DatasetConfig, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Context (n, 77, width) and pooled (n, width), float32, of captions that were encoded."""
    read = [read_tensors(text_path(config, caption))[0] for caption in captions]
    return torch.stack([one["context"] for one in read]), torch.stack([one["pooled"] for one in read])


def square(image: Image.Image, size: int, box: Sequence[float] | None = None, margin: float = 0.0) -> np.ndarray:
    """The picture's center square, or a square around a face, as uint8 (size, size, 3).

    box: x1, y1, x2, y2 of the face. margin: on each side of it, in face sizes. The square stays inside the picture.
    """
    width, height = image.size
    side, center = float(min(width, height)), (width / 2, height / 2)
    if box is not None:
        x1, y1, x2, y2 = box
        side = min(side, (1 + 2 * margin) * max(x2 - x1, y2 - y1))
        center = ((x1 + x2) / 2, (y1 + y2) / 2)
    left = min(max(0.0, center[0] - side / 2), width - side)
    top = min(max(0.0, center[1] - side / 2), height - side)
    crop = (left, top, left + side, top + side)
    if (width, height) == (size, size) and side == size:
        return np.asarray(image)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=crop))


def _chosen(kept: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The best `count` pictures, all for 0, in the order of their files: the same prompts in the same places."""
    return sorted(kept[: count or None], key=lambda picture: picture["file"])


def _box(face: Any) -> list[float]:
    return face.boxes[face.chosen, :4].tolist()
