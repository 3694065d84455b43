"""Images that occur again."""

import numpy as np
import pytest

from tests.training.evaluation.small_models import noise
from training.evaluation.metrics import pixels
from training.evaluation.metrics.content_cache import BATCH, ContentCache


def test_each_content_is_computed_once():
    computed = []

    def total(images):
        assert len(images) <= BATCH
        computed.extend(images)
        return [int(image.sum(dtype=np.int64)) for image in images]

    cache, images = ContentCache(total), noise(BATCH + 3)
    expected = [int(image.sum(dtype=np.int64)) for image in images]
    assert cache([images[0], *images]) == [expected[0], *expected]
    assert cache([image.copy() for image in reversed(images)]) == expected[::-1]
    assert len(computed) == len(images)


def test_images_are_read_batch_by_batch(monkeypatch: pytest.MonkeyPatch):
    """The images of all people by one method don't fit the memory: 3,000 of 1024 pixels take 9 GB."""
    read, counts = [], []

    def rgb_array(image, name):
        read.append(name)
        return image

    monkeypatch.setattr(pixels, "rgb_array", rgb_array)

    def count(images):
        counts.append(len(read))
        return [0] * len(images)

    ContentCache(count)(noise(2 * BATCH + 1))
    assert counts == [BATCH, 2 * BATCH, 2 * BATCH + 1]
    assert read[-1] == f"image {2 * BATCH + 1} of {2 * BATCH + 1}"


def test_equal_bytes_of_another_shape_are_another_image():
    cache = ContentCache(lambda images: [image.shape for image in images])
    image = noise(1, 20, 40)[0]
    assert cache([image, image.reshape(40, 20, 3)]) == [(20, 40, 3), (40, 20, 3)]
