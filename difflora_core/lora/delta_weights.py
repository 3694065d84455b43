"""Weight changes ΔW = up · down of LoRAs: inner products, and the losses of predicted ones."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .canonical_form import thin_svd
from .layout import LoRALayout

MIN_RELATIVE_NORM = 1e-6
"""In `direction` a predicted ΔW has at least this share of its target's norm, so that the gradient stays finite."""


class DeltaWeights(nn.Module):
    """Inner products of weight changes ΔW = up · down, module by module, without building the out × in matrices.

    ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ): two rank × rank products. Modules of one shape run as one batch.
    """

    def __init__(self, layout: LoRALayout) -> None:
        super().__init__()
        self.layout = layout
        for i, (down, up) in enumerate(layout.by_shape()):
            self.register_buffer(f"down_{i}", down, persistent=False)
            self.register_buffer(f"up_{i}", up, persistent=False)
        self.shape_count = i + 1

    def _indices(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield flat indices of downs and ups, shape by shape; see `LoRALayout.by_shape`."""
        for i in range(self.shape_count):
            yield self.get_buffer(f"down_{i}"), self.get_buffer(f"up_{i}")

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute Frobenius inner products (batch, modules) of flat LoRAs (batch, numel), modules sorted by shape."""
        products = []
        for down, up in self._indices():
            downs = torch.einsum("bmri,bmsi->bmrs", first[:, down], second[:, down])
            ups = torch.einsum("bmor,bmos->bmrs", first[:, up], second[:, up])
            products.append((downs * ups).sum((-2, -1)))
        return torch.cat(products, dim=1)

    def relative_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the mean over modules of ‖ΔŴ − ΔW‖² / ‖ΔW‖², which does not depend on how B and A share the scale.

        Limits: 0 for the same ΔW by whatever factors, 1 for no change at all, (s − 1)² for s times the change. A
        training loss: below about 1e-6 float32 cancellation takes over. Gradient for ΔŴ: `2 (ΔŴ − ΔW) / ‖ΔW‖²`.
        """
        size = self.inner(target, target)
        error = self.inner(prediction, prediction) - 2 * self.inner(prediction, target) + size
        return (error / size.clamp_min(torch.finfo(size.dtype).tiny)).mean()

    def direction(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the mean over modules of 1 − ⟨ΔŴ, ΔW⟩ / (‖ΔŴ‖ ‖ΔW‖): the error of ΔW's direction, whatever its norm.

        After LoRAGen (ICLR 2026); the formula is ours. Limits: 0 for any positive multiple, 1 for an orthogonal or a
        zero change, 2 for the opposite. Gradient for ΔŴ: `−(ΔW/‖ΔW‖ − cos · ΔŴ/‖ΔŴ‖) / ‖ΔŴ‖`, orthogonal to ΔŴ: it
        never changes the norm, so another term has to.
        """
        size = self.inner(target, target)
        own = self.inner(prediction, prediction)
        tiny = torch.finfo(size.dtype).tiny
        lengths = (
            own.clamp_min(0).maximum(MIN_RELATIVE_NORM**2 * size).clamp_min(tiny).sqrt() * size.clamp_min(tiny).sqrt()
        )
        return (1 - self.inner(prediction, target) / lengths).mean()

    def spectrum(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the mean over modules of Σ_k (σ̂_k − σ_k)² / Σ_k σ_k²: the error of ΔW's singular values.

        After LoRAGen (ICLR 2026); the formula is ours. The values, in descending order, come from rank × rank cores of
        thin QR factorizations, never from out × in. Limits: 0 for any ΔŴ = U ΔW V with orthogonal U, V, (s − 1)² for s
        times the change; never above `relative_error` (Mirsky). Gradient for ΔŴ:
        `2 Σ_k (σ̂_k − σ_k) û_k v̂_kᵀ / Σ_k σ_k²`. The singular vectors are taken as constants, which
        is exact for distinct values (σ̂_k = û_kᵀ ΔŴ v̂_k is stationary in them), and defined for equal ones and for zero,
        where a derivative of QR or SVD is not.
        """
        terms = []
        for down, up in self._indices():
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
        """Compute cosines (batch,) between predicted and target ΔW, relative to those of an origin (numel,).

        With the mean LoRA as origin this distinguishes people: 0 for the mean LoRA's direction, 1 for a perfect
        prediction.
        """
        origin = origin.expand_as(target)

        def centered(a: Tensor, b: Tensor) -> Tensor:
            pairs = self.inner(a, b) - self.inner(a, origin) - self.inner(origin, b) + self.inner(origin, origin)
            return pairs.sum(1)

        sizes = centered(prediction, prediction) * centered(target, target)
        return centered(prediction, target) / sizes.clamp_min(1e-20).sqrt()
