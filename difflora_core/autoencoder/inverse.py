"""From a LoRA back to the latent that it was decoded from.

The encoder was trained on teachers: it encodes the person in a LoRA, and leaves out the noise of its training. A LoRA
that the decoder itself made has no such noise and is unlike the encoder's training data, where the encoder can be far
off. Such a LoRA has a latent that gives it back exactly, or nearly if it was refined, and that is found by least
squares. The paper doesn't need this direction; it is our choice, for LoRAs that were saved and should be mixed again.
"""

import copy

import torch
from torch import Tensor

from .model import LAE

MIN_EXPLAINED = 0.5
"""Share of a LoRA's squared weights that some latent has to explain for it to come from the decoder. Measured in the
miniature before LAE, MIF and DiT were trained together: its own LoRAs have 1, refined ones 0.99 (0.63 to 0.73 after 50
steps at ten times the usual rate), teachers 0.31 to 0.45; of the weights that ship, after four runs together, eight
held-out teachers −0.82 to −0.67. Of refined LoRAs the nearest latent kept the face (similarity 0.74), the encoder's
lost it (0.05)."""
FIRST_ITERATIONS, ITERATIONS = 20, 80
"""L-BFGS iterations after which a foreign LoRA is recognized, and further ones for an own LoRA."""


def latents_of(lae: LAE, flat: Tensor) -> Tensor:
    """Encode LoRAs: those that come from the decoder as their nearest latent, all others by the encoder.

    Computed in float32, one LoRA after the other, so that none depends on others.

    Args:
        lae: The autoencoder.
        flat: (loras, numel).

    Returns:
        (loras, tokens, width).
    """
    encoded = lae.encode(flat)
    with torch.inference_mode(False), torch.enable_grad():
        # A copy: the weights may be in half precision, or without autograd, as ComfyUI loads them
        exact = copy.deepcopy(lae).float().requires_grad_(False)
        rows = [nearest_latent(exact, lora.detach().clone().float()) for lora in flat]
    return torch.stack([own if row is None else row.to(own) for own, row in zip(encoded, rows, strict=True)])


@torch.no_grad()
def explained_share(lae: LAE, flat: Tensor, latents: Tensor) -> Tensor:
    """Return what share of LoRAs latents give back: 1 is all, and below `MIN_EXPLAINED` others made them.

    Args:
        lae: The autoencoder.
        flat: LoRAs (loras, numel).
        latents: Of the same LoRAs (loras, tokens, width).

    Returns:
        Share of the squared normalized weights (loras,), at most 1, negative where the mean LoRA is nearer; 0 of a LoRA
        that is the mean itself.
    """
    target = lae.normalize(flat)
    rest = (lae.normalize(lae.decode(latents)) - target).square().sum(1)
    size = target.square().sum(1)
    return torch.where(size > 0, 1.0 - rest / size, 0.0)


def nearest_latent(lae: LAE, lora: Tensor) -> Tensor | None:
    """Find the latent whose LoRA is nearest in normalized weights, by L-BFGS from the average person.

    Args:
        lae: The autoencoder, in float32.
        lora: (numel,).

    Returns:
        (tokens, width); None if, after a few iterations, it explains less than `MIN_EXPLAINED` of the LoRA.
    """
    target = lae.normalize(lora[None])
    size = target.square().sum()
    if not size > 0:
        return None
    latent = torch.zeros(1, *lae.latent_mean.shape, device=lora.device, requires_grad=True)

    def unexplained() -> Tensor:
        return (lae.normalize(lae.decode(latent)) - target).square().sum() / size

    for iterations in (FIRST_ITERATIONS, ITERATIONS):
        optimizer = torch.optim.LBFGS(
            [latent], max_iter=iterations, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-12
        )

        def closure(optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = unexplained()
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
        with torch.no_grad():
            if not float(unexplained()) < 1.0 - MIN_EXPLAINED:
                return None
    return latent.detach()[0]
