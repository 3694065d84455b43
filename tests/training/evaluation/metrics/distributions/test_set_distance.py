"""FID and KID as a metric: equal numbers, a named reference set, real against real."""

import pytest
import torch

from tests.training.evaluation.small_models import noise
from training.evaluation.metrics.distributions.frechet import frechet_distance
from training.evaluation.metrics.distributions.kernel import kernel_distance
from training.evaluation.metrics.distributions.set_distance import SetDistance, disjoint_sets
from training.evaluation.metrics.metric import Description
from training.evaluation.metrics.pixels import rgb_images


class MeanColors:
    """Features that one can compute by hand."""

    description = Description("mean colors", "none", "none", "here")

    def __call__(self, images, what="image"):
        return torch.stack([torch.from_numpy(image).double().mean((0, 1)) for image in rgb_images(images, what)])


@pytest.fixture(scope="module")
def metric():
    return SetDistance(MeanColors(), noise(6), "drawn noise", " (colors)")


def test_it_is_both_distances_to_the_reference_set(metric):
    images = [image // 2 for image in noise(6, seed=1)]
    features = [MeanColors()(part) for part in (images, noise(6))]
    expected = {"FID (colors)": frechet_distance(*features), "KID × 1000 (colors)": 1000 * kernel_distance(*features)}
    assert metric.score(images) == pytest.approx(expected)
    assert list(metric.columns) == list(expected)


def test_the_description_names_set_and_number(metric):
    assert "6 generated and as many real images: drawn noise" in metric.description.layer


@pytest.mark.parametrize("count", [0, 5, 7])
def test_other_numbers_of_images_are_refused(metric, count):
    with pytest.raises(ValueError, match=f"expected 6, as many as the reference set drawn noise has, found {count}"):
        metric.score(noise(count))


def test_one_reference_image_is_refused():
    with pytest.raises(ValueError, match="has 1 images, expected two or more"):
        SetDistance(MeanColors(), noise(1), "one")


def test_sets_for_real_against_real_share_nothing():
    first, second = disjoint_sets(range(10), 4, torch.Generator().manual_seed(0))
    assert len({*first, *second}) == 8
    assert (first, second) == disjoint_sets(range(10), 4, torch.Generator().manual_seed(0))


def test_too_few_real_images_are_refused():
    with pytest.raises(ValueError, match="two sets of 4 real images need 8, found 7"):
        disjoint_sets(range(7), 4, torch.Generator())
