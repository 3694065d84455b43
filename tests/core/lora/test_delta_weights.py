"""Losses of ΔW on cases computed by hand."""

import pytest
import torch

from difflora_core.lora.delta_weights import DeltaWeights
from difflora_core.lora.layout import LoRALayout, LoRAModule


def _explicit(layout, flat):
    """ΔW of every module as one long vector (batch, …)."""
    return torch.cat([(up @ down).flatten(-2) for down, up in layout.unflatten(flat).values()], dim=-1)


def test_inner_products_without_building_delta_w(layout, loras):
    inner = DeltaWeights(layout).inner(loras[:3], loras[3:6]).sum(1)
    explicit = (_explicit(layout, loras[:3]) * _explicit(layout, loras[3:6])).sum(1)
    torch.testing.assert_close(inner, explicit)


def test_cosine_relative_to_an_origin(layout, loras):
    origin = loras[9]
    found = DeltaWeights(layout).cosine(loras[:3], loras[3:6], origin)
    a, b = (_explicit(layout, x) - _explicit(layout, origin) for x in (loras[:3], loras[3:6]))
    torch.testing.assert_close(found, torch.nn.functional.cosine_similarity(a, b))


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-4])
def test_cosine_near_the_origin(layout, loras, distance):
    """As a network's first predictions are: differences of float32's inner products are rounding errors there."""
    origin = loras[9]
    prediction, target = origin + distance * loras[:3], origin + loras[3:6]
    exact = (_explicit(layout, x.double()) - _explicit(layout, origin.double()) for x in (prediction, target))
    expected = torch.nn.functional.cosine_similarity(*exact).float()
    found = DeltaWeights(layout).cosine(prediction, target, origin)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_cosine_is_zero_at_the_origin_and_never_above_one(layout, loras):
    origin, cosine = loras[9], DeltaWeights(layout).cosine
    near = origin * (1 + 1e-7 * torch.randn(30, layout.numel, generator=torch.Generator().manual_seed(1)))
    assert cosine(near, loras[:30] + 1, origin).tolist() == [0.0] * 30
    assert cosine(loras[:30], near, origin).tolist() == [0.0] * 30
    assert cosine(loras, loras, origin).tolist() == [1.0] * 9 + [0.0] + [1.0] * 30
    assert cosine(loras[:1], loras[:1], torch.zeros_like(origin)).tolist() == [1.0]


def test_cosine_of_a_broken_prediction_is_not_a_number(layout, loras):
    assert DeltaWeights(layout).cosine(loras[:1] * torch.nan, loras[1:2], loras[9]).isnan().all()


def test_relative_error_of_a_doubled_lora_is_nine(layout, loras):
    # Both factors doubled: ΔW quadrupled, so ‖4ΔW − ΔW‖² / ‖ΔW‖² = 9
    torch.testing.assert_close(DeltaWeights(layout).relative_error(2 * loras, loras), torch.tensor(9.0))


@pytest.mark.parametrize("name", ["relative_error", "spectrum", "direction"])
@pytest.mark.parametrize("count", [1, 3])
def test_modules_without_a_change_leave_losses_and_gradients_finite(layout, loras, name, count):
    """As where a training passed over a layer, or a LoRA has no strength there."""
    loss, first = getattr(DeltaWeights(layout), name), layout.names[0]

    def without(flat):
        factors = layout.unflatten(flat)
        return layout.flatten(factors | {first: (factors[first][0], 0 * factors[first][1])})

    target = torch.cat([without(loras[:count]), loras[count:3]])
    prediction = loras[3:6].clone().requires_grad_()
    found = loss(prediction, target)
    found.backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    usual = loss(loras[3:6], loras[:3])
    assert usual / 10 < found < 10 * usual
    if name != "direction":  # that of no change is 1, as of an orthogonal one
        torch.testing.assert_close(loss(target, target), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert loss(prediction, torch.zeros_like(target)).isfinite()


def test_a_module_without_a_change_is_measured_by_the_mean_of_all(layout):
    # Only the first module is wrong, by its whole ‖ΔŴ‖²; the mean of target sizes is half of the second's
    ones = torch.ones(1, layout.numel)
    factors = layout.unflatten(ones)
    first, second = layout.names
    sizes = {name: float((up @ down).square().sum()) for name, (down, up) in factors.items()}
    target = layout.flatten(factors | {first: (factors[first][0], 0 * factors[first][1])})
    expected = (sizes[first] / (sizes[second] / 2) + 0) / 2
    torch.testing.assert_close(DeltaWeights(layout).relative_error(ones, target), torch.tensor(expected))
    torch.testing.assert_close(DeltaWeights(layout).spectrum(ones, target), torch.tensor(expected))


@pytest.fixture
def square() -> LoRALayout:
    """One module 2 → 2 at rank 2: with down = 1 the up factor is ΔW."""
    return LoRALayout((LoRAModule("mid_block.to_q", 2, 2),), rank=2)


def _change(square: LoRALayout, delta: list[list[float]]) -> torch.Tensor:
    """The LoRA (1, numel) of a given ΔW."""
    return square.flatten({"mid_block.to_q": (torch.eye(2), torch.tensor(delta))})[None]


def test_direction_by_hand(square):
    # cosine of [[3, 0], [0, 4]] and [[1, 0], [0, 0]]: 3 / (5 · 1)
    loss = DeltaWeights(square).direction(_change(square, [[1, 0], [0, 0]]), _change(square, [[3, 0], [0, 4]]))
    torch.testing.assert_close(loss, torch.tensor(0.4))


@pytest.mark.parametrize(("factor", "expected"), [(7.0, 0.0), (-0.5, 2.0), (0.0, 1.0)])
def test_direction_of_a_multiple(square, factor, expected):
    target = [[1.0, 2.0], [0.0, -1.0]]
    prediction = [[factor * number for number in row] for row in target]
    loss = DeltaWeights(square).direction(_change(square, prediction), _change(square, target))
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-6, rtol=0)


def test_direction_has_a_finite_gradient_where_there_is_no_change(square):
    prediction = _change(square, [[0.0, 0.0], [0.0, 0.0]]).requires_grad_()
    DeltaWeights(square).direction(prediction, _change(square, [[1.0, 2.0], [0.0, -1.0]])).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_direction_gradient_is_orthogonal_to_the_change(layout, loras):
    loss = DeltaWeights(layout).direction
    scale = torch.tensor(1.0, requires_grad=True)
    up_only = layout.flatten({n: (down * 0, up * 0 + 1) for n, (down, up) in layout.unflatten(loras[0]).items()})
    loss(loras[:3] * (1 + (scale - 1) * up_only), loras[3:6]).backward()
    torch.testing.assert_close(scale.grad, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_spectrum_by_hand(square):
    # singular values 5 and 1 instead of 3 and 4, in descending order 4 and 3: ((5 − 4)² + (1 − 3)²) / 25
    rotated = _change(square, [[0.0, 5.0], [-1.0, 0.0]])
    loss = DeltaWeights(square).spectrum(rotated, _change(square, [[3.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(loss, torch.tensor(0.2))


def test_spectrum_gradient_by_hand(square):
    # 2 (σ̂ − σ) û v̂ᵀ / Σσ² for both values: (2 · 1, 2 · −2) / 25 on the diagonal, and ΔW is the up factor
    prediction = _change(square, [[5.0, 0.0], [0.0, 1.0]]).requires_grad_()
    DeltaWeights(square).spectrum(prediction, _change(square, [[3.0, 0.0], [0.0, 4.0]])).backward()
    assert prediction.grad is not None
    up = square.unflatten(prediction.grad)["mid_block.to_q"][1][0]
    torch.testing.assert_close(up, torch.tensor([[0.08, 0.0], [0.0, -0.16]]))


def test_spectrum_is_that_of_the_whole_matrices_and_below_the_relative_error(layout, loras):
    prediction, target = loras[:3], loras[3:6]
    terms = []
    for one, other in zip(layout.unflatten(prediction).values(), layout.unflatten(target).values(), strict=True):
        values, wanted = (torch.linalg.svdvals(up @ down) for down, up in (one, other))
        terms.append((values - wanted).square().sum(-1) / wanted.square().sum(-1))
    found = DeltaWeights(layout).spectrum(prediction, target)
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=1e-4, atol=1e-6)
    assert found < DeltaWeights(layout).relative_error(prediction, target)


def test_spectrum_of_an_untrained_lora_is_one_and_has_a_gradient(layout, loras):
    # B = 0, as every LoRA begins: no singular value is right, and QR has no derivative there
    factors = layout.unflatten(loras[:3])
    begun = layout.flatten({name: (down, up * 0) for name, (down, up) in factors.items()}).requires_grad_()
    loss = DeltaWeights(layout).spectrum(begun, loras[3:6])
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(1.0))
    assert begun.grad is not None
    assert begun.grad.isfinite().all()
    assert begun.grad.abs().max() > 0
