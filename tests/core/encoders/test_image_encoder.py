"""The image encoder in batches; `tests/host` compares its embeddings with ComfyUI's."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from difflora_core.encoders.image_encoder import BATCH, ImageEncoder
from difflora_core.files import read_tensors, write_tensors
from miniature.paths import WEIGHTS


class Tower(torch.nn.Module):
    """Stands for a CLIP vision model: an image's embedding is its mean color; `rows` are the batches it saw."""

    config = SimpleNamespace(image_size=4)
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.rows.append(len(pixel_values))
        return SimpleNamespace(image_embeds=pixel_values.mean((2, 3)))


def test_a_thousand_images_are_encoded_in_chunks_and_in_order():
    tower = Tower()
    images = [np.full((4, 4, 3), number % 256, dtype=np.uint8) for number in range(1000)]
    embeddings = ImageEncoder(tower, (0, 0, 0), (1, 1, 1)).encode(images)
    assert max(tower.rows) == BATCH
    torch.testing.assert_close(embeddings[:, 0], (torch.arange(1000) % 256) / 255.0)


def test_an_image_is_reduced_without_aliases_to_whole_colors():
    stripes = np.zeros((16, 24, 3), np.uint8)
    stripes[:, 1::4] = 255  # a fourth of the image, but most of what lies around the middle of four columns
    pixels = 255 * ImageEncoder(Tower(), (0, 0, 0), (1, 1, 1)).preprocess(stripes)
    assert pixels.shape == (3, 4, 4)
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
    assert (pixels - 255 / 4).abs().max() < 20


def test_weights_in_half_precision_are_computed_with_in_float32(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(WEIGHTS / "clip_vision" / "miniature", folder)
    tensors, metadata = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {name: tensor.half() for name, tensor in tensors.items()}, metadata)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    images = [np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)]
    found = ImageEncoder.open(folder).encode(images)
    assert found.dtype == torch.float32
    exact = ImageEncoder.open(WEIGHTS / "clip_vision" / "miniature").encode(images)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("model.safetensors", b"", "it is empty"),
        ("config.json", b"{", "can't be loaded"),
        ("preprocessor_config.json", b"<html>", "can't be loaded"),
    ],
)
def test_a_damaged_model_is_named(tmp_path, name, content, message):
    (source,) = (path.parent for path in (WEIGHTS / "clip_vision").rglob("config.json"))
    folder = tmp_path / "encoder"
    shutil.copytree(source, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{folder}.*{message}"):
        ImageEncoder.open(folder)
