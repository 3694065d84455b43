"""The denoiser's training configuration."""

import pytest

from training.denoiser.config import DiffLoRATraining

from .shapes import LOOP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "guess"}, "objective: found 'guess', expected one of diffusion, regression"),
        ({"batch": 0}, "batch: found 0, expected an integer of at least 1"),
        ({"face_dropout": 0.8, "image_dropout": 0.3}, r"between 0 and 1 together, found \(0.8, 0.3\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DiffLoRATraining(LOOP, **options)
