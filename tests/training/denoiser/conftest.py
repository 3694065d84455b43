"""People whose latents follow from their faces, and an autoencoder with latents of that shape."""

import pytest
import torch

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from training.people.conditions import Conditions

from .shapes import LAYOUT


@pytest.fixture
def world():
    """Latents (64, 2, 2) that are a linear map of unit faces; three images of each with a little noise."""
    g = torch.Generator().manual_seed(0)
    faces = torch.nn.functional.normalize(torch.randn(64, 4, generator=g), dim=1)
    images = faces[:, None] + 0.02 * torch.randn(64, 3, 4, generator=g)
    latents = 2.0 * faces.view(64, 2, 2)
    return latents, Conditions(images, images.flip(-1)), faces


@pytest.fixture(scope="module")
def loras():
    return torch.randn(40, LAYOUT.numel, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lae(loras):
    """A fitted LAE with the latents of the toy DiT."""
    fitted = LAE(LAYOUT, LAEConfig(kind="linear", tokens=2, width=2))
    fitted.fit(loras)
    return fitted.eval().requires_grad_(False)
