"""The image encoder in batches; `tests/host` compares its embeddings with ComfyUI's."""

from types import SimpleNamespace

import numpy as np
import torch

from difflora_core.encoders.image_encoder import BATCH, ImageEncoder


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
