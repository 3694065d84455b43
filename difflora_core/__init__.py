"""The networks of DiffLoRA and their mathematics: no ComfyUI, no training.

    from difflora_core import DiffLoRA

- `lora`: which layers LoRAs change, their files, factors of the same ΔW
- `autoencoder`: LoRA to latent and back
- `denoiser`: embeddings and noise to a latent
- `diffusion_loss`: timesteps, targets and weights
- `config`, `checkpoint`: a checkpoint's header and file
- `images`: reading images
- `encoders`: face and image embeddings, and how similar faces are
- `references`: reference images to embeddings
- `model`: all of it as one object
- `refinement`: some training steps for one person's LoRA
- `file_info`: what a file is, told from its header
- `command`: the command line
- `fields`, `files`, `network_files`, `seeds`, `command_line`: helpers
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lora.lora import LoRA
    from .model import DiffLoRA

__all__ = ["DiffLoRA", "LoRA"]


def __getattr__(name: str) -> Any:
    """Import DiffLoRA and LoRA on first use: ComfyUI imports this package at every start, and they bring diffusers."""
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
