"""The recommended sampling: the best score, and the cheaper setting where more is not worth it."""

import math

import pytest

from difflora_core.denoiser.diffusion import SamplingConfig
from training.end_to_end.sampling_choice import choose_sampling


def chosen(figure, worth: float = 0.01) -> SamplingConfig:
    return choose_sampling(lambda sampling: {"likeness": figure(sampling)}, lambda figures: figures["likeness"], worth)[
        0
    ]


def test_the_best_of_each_setting_is_found():
    best = chosen(lambda s: -abs(s.steps - 10) / 10 - abs(s.guidance_scale - 1.5) - abs(s.latent_scale - 1.25))
    assert (best.steps, best.guidance_scale, best.latent_scale) == (10, 1.5, 1.25)


def test_what_costs_more_has_to_be_worth_it():
    best = chosen(lambda s: 0.0004 * s.steps + 0.008 * s.guidance_scale + 0.01 * s.latent_scale)
    assert (best.steps, best.guidance_scale, best.latent_scale) == (1, 1.0, 1.0)


def test_what_is_out_of_the_question_is_not_chosen():
    best = chosen(lambda s: -math.inf if s.latent_scale > 1.25 or s.steps < 4 else s.latent_scale)
    assert (best.steps, best.latent_scale) == (4, 1.25)


def test_nothing_that_is_any_good_is_an_error():
    with pytest.raises(ValueError, match="No sampling is any good"):
        chosen(lambda s: -math.inf)


def test_all_that_was_tried_is_told(capsys):
    sampling, log = choose_sampling(
        lambda s: {"likeness": s.latent_scale, "fidelity": 1.0}, lambda f: f["likeness"], 0.01
    )
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(log)
    assert sampling.samples == 4
    *_, last = log
    assert "samples 1, latent_scale 1.0" in last
    assert "fidelity 1.0000" in told[0]
