"""The image encoder in batches; `tests/host` compares its embeddings with ComfyUI's."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from difflora_core.encoders.image_encoder import BATCH, ImageEncoder
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
