"""The recommended sampling: the best score, and the cheaper setting where more does not improve enough."""

import math

import pytest

from difflora_core.denoiser.config import SamplingConfig
from training.end_to_end.sampling_choice import choose_sampling


def chosen(figure, min_improvement: float = 0.01) -> SamplingConfig:
    return choose_sampling(
        lambda sampling: {"likeness": figure(sampling)}, lambda metrics: metrics["likeness"], min_improvement
    )[0]


def test_the_best_of_each_setting_is_found():
    best = chosen(lambda s: -abs(s.steps - 10) / 10 - abs(s.guidance_scale - 1.5) - abs(s.latent_scale - 1.25))
    assert (best.steps, best.guidance_scale, best.latent_scale) == (10, 1.5, 1.25)


def test_a_costlier_setting_has_to_improve_enough():
    best = chosen(lambda s: 0.0004 * s.steps + 0.008 * s.guidance_scale + 0.01 * s.latent_scale)
    assert (best.steps, best.guidance_scale, best.latent_scale) == (1, 1.0, 1.0)


def test_settings_that_are_ruled_out_are_not_chosen():
    best = chosen(lambda s: -math.inf if s.latent_scale > 1.25 or s.steps < 4 else s.latent_scale)
    assert (best.steps, best.latent_scale) == (4, 1.25)


def test_ruling_out_all_settings_is_an_error():
    with pytest.raises(ValueError, match="All sampling settings are ruled out"):
        chosen(lambda s: -math.inf)


def test_all_that_was_tried_is_printed(capsys):
    sampling, log = choose_sampling(
        lambda s: {"likeness": s.latent_scale, "fidelity": 1.0}, lambda f: f["likeness"], 0.01
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(log)
    assert sampling.samples == 4
    *_, last = log
    assert "samples 1, latent_scale 1.0" in last
    assert "fidelity 1.0000" in lines[0]
