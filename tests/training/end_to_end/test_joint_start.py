"""What joint training starts from: latents that differ by person, found without running the untrained blocks."""

import pytest
import torch

from difflora_core.denoiser.config import DiTConfig, MIFConfig
from difflora_core.denoiser.model import Denoiser
from training.end_to_end.joint_start import PEOPLE_PER_BATCH, start_from_conditions

PEOPLE = PEOPLE_PER_BATCH + 6


def test_the_start_is_found_without_the_blocks():
    """They are the identity, and of the paper's size they would take very long for thousands of people."""
    torch.manual_seed(0)
    denoiser = Denoiser(DiTConfig(2, 3, 16, 1, 2, 8, condition_width=8), MIFConfig(4, 4, 8))
    blocks, people = list(denoiser.dit.blocks), torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(5))

    def refuse(*_):
        raise AssertionError("a block was run")

    handles = [block.register_forward_pre_hook(refuse) for block in blocks]
    start_from_conditions(denoiser, people, people, torch.Generator().manual_seed(1), 0.5)
    for handle in handles:
        handle.remove()
    assert list(denoiser.dit.blocks) == blocks
    noise = torch.randn(PEOPLE, 2, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latents = denoiser(noise, torch.full((PEOPLE,), 999), people, people, torch.zeros(PEOPLE, dtype=torch.bool))
    assert latents.var(0).mean().sqrt() == pytest.approx(0.5, rel=1e-4)
    assert latents.mean((0, 1)) == pytest.approx(torch.zeros(3), abs=1e-5)
