"""Weight changes ΔW = up · down of LoRAs: inner products, and the losses of predicted ones."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .canonical_form import thin_svd
from .layout import LoRALayout

MIN_RELATIVE_NORM = 1e-6
"""Below this share of what it is compared with a norm counts as zero. In `direction` a predicted ΔW has at least this
share of its target's norm, so that the gradient stays finite."""


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

        Where ΔW is zero, the mean of ‖ΔW‖² over the batch's modules stands in its place. Limits: 0 for the same ΔW by
        whatever factors, 1 for no change at all, (s − 1)² for s times the change. A training loss: below about 1e-6
        float32 cancellation takes over. Gradient for ΔŴ: `2 (ΔŴ − ΔW) / ‖ΔW‖²`.
        """
        size = self.inner(target, target)
        error = self.inner(prediction, prediction) - 2 * self.inner(prediction, target) + size
        return (error / _divisors(size)).mean()

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
        thin QR factorizations, never from out × in. Where ΔW is zero, Σ_k σ_k² is as in `relative_error`. Limits: 0
        for any ΔŴ = U ΔW V with orthogonal U, V, (s − 1)² for s times the change; never above `relative_error`
        (Mirsky). Gradient for ΔŴ: `2 Σ_k (σ̂_k − σ_k) û_k v̂_kᵀ / Σ_k σ_k²`. The singular vectors are taken as
        constants, which is exact for distinct values (σ̂_k = û_kᵀ ΔŴ v̂_k is stationary in them), and defined for equal
        ones and for zero, where a derivative of QR or SVD is not.
        """
        errors, sizes = [], []
        for down, up in self._indices():
            with torch.no_grad():
                left, _, right = (part.to(prediction) for part in thin_svd(prediction[:, down], prediction[:, up]))
                wanted = thin_svd(target[:, down], target[:, up])[1].to(target)  # (batch, modules, k)
            outputs = torch.einsum("bmok,bmor->bmkr", left, prediction[:, up])
            inputs = torch.einsum("bmri,bmki->bmkr", prediction[:, down], right)
            values = (outputs * inputs).sum(-1)  # (batch, modules, k)
            errors.append((values - wanted).square().sum(-1))
            sizes.append(wanted.square().sum(-1))
        return (torch.cat(errors, dim=1) / _divisors(torch.cat(sizes, dim=1))).mean()

    def cosine(self, prediction: Tensor, target: Tensor, origin: Tensor) -> Tensor:
        """Compute cosines (batch,) between predicted and target ΔW, relative to those of an origin (numel,).

        With the mean LoRA as origin this distinguishes people: 0 for the mean LoRA's direction, 1 for a perfect
        prediction. Computed in float64, because a prediction near the origin is a small difference of large numbers; 0
        for one at the origin, by `MIN_RELATIVE_NORM` of the origin's norm.
        """
        result_type = target.dtype
        prediction, target, origin = prediction.double(), target.double(), origin.double().expand_as(target)
        whole = self.inner(origin, origin)

        def centered(a: Tensor, b: Tensor) -> Tensor:
            return (self.inner(a, b) - self.inner(a, origin) - self.inner(origin, b) + whole).sum(1)

        own, wanted = centered(prediction, prediction), centered(target, target)
        smallest = MIN_RELATIVE_NORM**2 * whole.sum(1)
        cosines = (centered(prediction, target) / (own * wanted).sqrt()).clamp(-1, 1)
        # Not where both are larger: that would turn NaN into 0
        return cosines.masked_fill((own <= smallest) | (wanted <= smallest), 0.0).to(result_type)


def _divisors(size: Tensor) -> Tensor:
    """Return what errors of ΔW are divided by, (batch, modules): their ‖ΔW‖², or the mean of all where it is zero.

    A module that a training left as it was, or that has no strength, would otherwise make the loss infinite.
    """
    mean = size.mean()
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    return torch.where(size > MIN_RELATIVE_NORM**2 * mean, size, mean)
