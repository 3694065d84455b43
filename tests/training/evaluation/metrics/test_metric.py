"""What metrics are given, and the way from a metric to a table."""

import numpy as np
import pytest

from tests.training.evaluation.small_models import PROMPTS, noise
from training.evaluation.metrics.metric import Description, PersonMetric, PersonSample
from training.evaluation.metrics.pixels import rgb_images
from training.evaluation.statistics import compare, person_mean


class Brightness:
    """A metric of another package."""

    columns = {"brightness": "neither"}  # noqa: RUF012
    description = Description("none", "mean of the pixels", "none", "here")

    def score(self, sample):
        return {"brightness": np.array([image.mean() for image in rgb_images(sample.images)])}


def test_from_samples_to_a_table():
    metric: PersonMetric = Brightness()
    samples = {
        method: [
            PersonSample([image // divisor for image in noise(3, seed=seed)], PROMPTS, noise(1)) for seed in range(4)
        ]
        for method, divisor in {"ours": 1, "darker": 2}.items()
    }
    people = {
        method: [person_mean(metric.score(sample)["brightness"]) for sample in of_people]
        for method, of_people in samples.items()
    }
    found = compare(people, against="ours")
    assert found["darker"].difference.excludes_zero
    assert found["darker"].value.people == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], noise(1)), "no images to measure"),
        ((noise(2), PROMPTS, noise(1)), "a prompt for each image, found 3 for 2"),
        ((noise(3), PROMPTS, []), "no reference images"),
    ],
)
def test_incomplete_samples_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PersonSample(*arguments)


def test_images_may_be_one_array():
    assert len(PersonSample(np.stack(noise(3)), PROMPTS, np.stack(noise(1))).images) == 3
