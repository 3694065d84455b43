"""Losses of the LoRA weight autoencoder, and the weight of the denoising loss that trains a LoRA itself.

Those of the autoencoder take ``(batch, numbers)`` and return a scalar.

Reconstruction and weight-preserved loss work on normalized numbers (the deviation from the mean LoRA in units of its
factor's scale), the KL term on the posterior of standardized latents, the ΔW terms on raw LoRAs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lora.canonical_form import thin_svd
from .lora.layout import LoRALayout

SHORTEST = 1e-6  # a predicted ΔW that is shorter than this share of its target counts as this long in `direction`


def reconstruction(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: the paper's reconstruction term."""
    return F.mse_loss(prediction, target)


def weight_preserved(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error in which large weights have more say: ``mean((1 + |x| / mean|x|) · (x̂ − x)²)``.

    The paper introduces the term because large LoRA weights move the picture most; its exact formula is not public,
    this one is our choice. ``mean|x|`` runs over one LoRA, so the factors average exactly 2 whatever the LoRA's size.
    Limits: equal magnitudes give twice the mean squared error; an all-zero target gives the mean squared error; a
    single large weight among n zeros counts n + 1 times. Gradient: ``2 (1 + |x| / mean|x|) (x̂ − x) / n``, none
    through the factors.
    """
    magnitude = target.detach().abs()
    importance = 1 + magnitude / magnitude.mean(-1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    return (importance * (prediction - target).square()).mean()


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback–Leibler divergence of a diagonal Gaussian from the unit Gaussian, mean per latent number, in nats:
    ``mean(½ (μ² + σ² − 1 − log σ²))`` (Kingma and Welling, arXiv 1312.6114, appendix B).

    mean, log_variance: (batch, …), of one shape. Limits: 0 for μ = 0, σ² = 1 only; grows as ½ μ² for a far mean and
    without bound, but slowly, as σ² → 0. Gradients: ``μ / n`` and ``½ (σ² − 1) / n``.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def denoising_weight(sigmas: Tensor, velocity: bool) -> Tensor:
    """What turns the squared error of a predicted x0 into that of what the network itself predicts: ``(batch,)``.

    sigmas: noise levels ``(batch,)`` of x = x0 + σ·ε. ε = (x − x0) / σ, so its error is that of x0 over σ²; v of unit
    variance is (x / √(1 + σ²) − √(1 + σ²)·x0) / σ up to terms without x0, so its error is that of x0 times
    (1 + σ²) / σ² (Salimans and Ho 2022, section 4).
    """
    squares = sigmas.square()
    return ((1.0 + squares) if velocity else torch.ones_like(squares)) / squares


class DeltaWeights(nn.Module):
    """Inner products of weight changes ΔW = up · down, module by module, without ever building the out × in matrices.

    ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ): two rank × rank products. Modules of one shape run as one batch.
    """

    def __init__(self, layout: LoRALayout) -> None:
        super().__init__()
        self.layout = layout
        for i, (down, up) in enumerate(layout.by_shape()):
            self.register_buffer(f"down_{i}", down, persistent=False)
            self.register_buffer(f"up_{i}", up, persistent=False)
        self.shapes = i + 1

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Frobenius inner products ``(batch, modules)`` of two flat LoRAs ``(batch, numel)``, by module shape."""
        products = []
        for i in range(self.shapes):
            down, up = self.get_buffer(f"down_{i}"), self.get_buffer(f"up_{i}")
            downs = torch.einsum("bmri,bmsi->bmrs", first[:, down], second[:, down])
            ups = torch.einsum("bmor,bmos->bmrs", first[:, up], second[:, up])
            products.append((downs * ups).sum((-2, -1)))
        return torch.cat(products, dim=1)

    def relative_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``mean over modules of ‖ΔŴ − ΔW‖² / ‖ΔW‖²``: what the U-Net feels, blind to how B and A share the scale.

        Limits: 0 for the same ΔW by whatever factors, 1 for no change at all, (s − 1)² for s times the change. A
        training loss: below about 1e-6 float32 cancellation takes over. Gradient for ΔŴ: ``2 (ΔŴ − ΔW) / ‖ΔW‖²``.
        """
        size = self.inner(target, target)
        error = self.inner(prediction, prediction) - 2 * self.inner(prediction, target) + size
        return (error / size.clamp_min(torch.finfo(size.dtype).tiny)).mean()

    def direction(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``mean over modules of 1 − ⟨ΔŴ, ΔW⟩ / (‖ΔŴ‖ ‖ΔW‖)``: whether ΔW points where it should, however long it is
        (after LoRAGen, ICLR 2026; the formula is ours).

        Limits: 0 for any positive multiple, 1 for an orthogonal or an empty change, 2 for the opposite. Gradient for
        ΔŴ: ``−(ΔW/‖ΔW‖ − cos · ΔŴ/‖ΔŴ‖) / ‖ΔŴ‖``, orthogonal to ΔŴ: it never changes the length, so another term has
        to. Near ΔŴ = 0 the length counts as a millionth of the target's, so that the gradient stays finite.
        """
        size = self.inner(target, target)
        own = self.inner(prediction, prediction)
        tiny = torch.finfo(size.dtype).tiny
        lengths = own.clamp_min(0).maximum(SHORTEST**2 * size).clamp_min(tiny).sqrt() * size.clamp_min(tiny).sqrt()
        return (1 - self.inner(prediction, target) / lengths).mean()

    def spectrum(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``mean over modules of Σ_k (σ̂_k − σ_k)² / Σ_k σ_k²``: whether the singular values of ΔW are right, in
        descending order (after LoRAGen, ICLR 2026; the formula is ours).

        The singular values come from rank × rank cores of thin QR factorisations, never from out × in. Limits: 0 for
        any ΔŴ = U ΔW V with orthogonal U, V, (s − 1)² for s times the change; never above `relative_error` (Mirsky).
        Gradient for ΔŴ: ``2 Σ_k (σ̂_k − σ_k) û_k v̂_kᵀ / Σ_k σ_k²``. The singular vectors are taken as constants, which
        is exact for distinct values (σ̂_k = û_kᵀ ΔŴ v̂_k is stationary in them), and defined for equal ones and for zero,
        where a derivative of QR or SVD is not.
        """
        terms = []
        for i in range(self.shapes):
            down, up = self.get_buffer(f"down_{i}"), self.get_buffer(f"up_{i}")
            with torch.no_grad():
                left, _, right = (part.to(prediction) for part in thin_svd(prediction[:, down], prediction[:, up]))
                wanted = thin_svd(target[:, down], target[:, up])[1].to(target)  # (batch, modules, k)
            outputs = torch.einsum("bmok,bmor->bmkr", left, prediction[:, up])
            inputs = torch.einsum("bmri,bmki->bmkr", prediction[:, down], right)
            values = (outputs * inputs).sum(-1)  # (batch, modules, k)
            size = wanted.square().sum(-1).clamp_min(torch.finfo(wanted.dtype).tiny)
            terms.append((values - wanted).square().sum(-1) / size)
        return torch.cat(terms, dim=1).mean()

    def cosine(self, prediction: Tensor, target: Tensor, origin: Tensor) -> Tensor:
        """Cosines ``(batch,)`` between the ΔW of two LoRAs, both relative to those of ``origin`` ``(numel,)``.

        With the mean LoRA as origin this tells people apart: 0 for the mean LoRA's direction, 1 for a perfect
        prediction.
        """
        origin = origin.expand_as(target)

        def centered(a: Tensor, b: Tensor) -> Tensor:
            pairs = self.inner(a, b) - self.inner(a, origin) - self.inner(origin, b) + self.inner(origin, origin)
            return pairs.sum(1)

        sizes = centered(prediction, prediction) * centered(target, target)
        return centered(prediction, target) / sizes.clamp_min(1e-20).sqrt()
