"""Configurations that are impossible are refused."""

from dataclasses import replace

import numpy as np
import pytest

from difflora_core.denoiser.config import DiTConfig, MIFConfig, SamplingConfig

CONFIG = SamplingConfig(steps=4, guidance_scale=1.0, samples=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheduler": "euler"},
        {"steps": 0},
        {"steps": 10_000},
        {"steps": 4.5},
        {"steps": "4"},
        {"samples": 0},
        {"guidance_scale": -1.0},
        {"guidance_scale": float("nan")},
        {"guidance_scale": "2"},
        {"latent_scale": float("inf")},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("inf")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"found '?{next(iter(wrong.values()))}"):
        replace(CONFIG, **wrong)


def test_the_name_has_every_setting_and_a_temperature_where_there_is_one():
    plain = "steps 4, guidance_scale 1.0, scheduler ddim, samples 1, latent_scale 1.0"
    assert CONFIG.name == plain
    assert replace(CONFIG, temperature=0.5).name == f"{plain}, temperature 0.5"


def test_numpy_numbers_are_numbers():
    assert replace(CONFIG, steps=np.int64(3), latent_scale=np.float32(1.25)).steps == 3


@pytest.mark.parametrize("wrong", [{"token_types": (0, 1)}, {"token_depths": (0, 1, -1)}])
def test_types_that_do_not_fit_the_tokens_are_refused(wrong):
    with pytest.raises(ValueError, match="3 integers from 0 on, one for each token"):
        DiTConfig(tokens=3, **wrong)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="mode: found 'both', expected one of gate, mean, face, image"):
        MIFConfig(mode="both")
