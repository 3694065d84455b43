"""One DiffLoRA model out of the networks that a trainer has."""

from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA


def assemble(lae: LAE, denoiser: Denoiser, config: DiffLoRAConfig) -> DiffLoRA:
    """Make one model of the three networks."""
    model = DiffLoRA(lae.layout, config)
    model.lae.load_state_dict(lae.state_dict())
    model.dit.load_state_dict(denoiser.dit.state_dict())
    model.mif.load_state_dict(denoiser.mif.state_dict())
    return model.eval().requires_grad_(False)
