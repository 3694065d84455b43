"""Preprocessing against torchvision's and transformers', and images that are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests.training.evaluation.small_models import noise
from training.evaluation.metrics.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    require_finite,
    rgb_images,
)


@pytest.mark.parametrize("size", [(300, 417), (413, 300), (256, 256), (31, 57)])
def test_it_is_torchvisions_of_pil_images(size):
    found = Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD)(noise(1, *size))
    official = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    torch.testing.assert_close(found[0], official(Image.fromarray(noise(1, *size)[0])), atol=1e-6, rtol=1e-6)


def test_it_is_clips_of_transformers():
    from transformers import CLIPImageProcessor

    images = noise(2, 300, 400)
    expected = CLIPImageProcessor()(images, return_tensors="pt").pixel_values
    found = Preprocessing(224, 224, CLIP_MEAN, CLIP_STD)(images)
    # transformers' bicubic rounds a few values to the other side: one level of 255 is 0.015
    assert float((found - expected).abs().max()) < 0.016


def test_one_image_in_several_forms():
    array = noise(1)[0]
    forms = [array, Image.fromarray(array), torch.from_numpy(array).double() / 255]
    assert all(np.array_equal(found, array) for found in rgb_images(forms))


def test_a_grayscale_image_is_three_equal_channels():
    gray = Image.fromarray(noise(1)[0]).convert("L")
    found = rgb_images([gray])[0]
    assert np.array_equal(found, np.repeat(np.asarray(gray)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no image to measure"),
        ([noise(1)[0], np.zeros((1, 1, 3), np.uint8)], "image 2 of 2 has 1 × 1 pixels"),
        ([np.zeros((16, 800, 3), np.uint8)], "800 × 16 pixels"),
        ([np.zeros((32, 32), np.uint8)], r"image 1 of 1 is uint8 \(32, 32\)"),
        ([torch.full((32, 32, 3), torch.nan)], "image 1 of 1 holds NaN"),
        ([np.zeros((32, 32, 3), np.float32)], "float32"),
    ],
)
def test_what_can_not_be_measured_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        rgb_images(images)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="image 1 of 1 is not there"):
        rgb_images([tmp_path / "absent.png"])


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="it made NaN or infinite values of 1 of 3 inputs, first of number 2"):
        require_finite(torch.tensor([[0.0], [torch.inf], [1.0]]), "it")
