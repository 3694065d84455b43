"""Other factors, same ΔW."""

import pytest
import torch

from difflora_core.lora.canonical_form import align, canonical, change_rank, thin_svd
from difflora_core.lora.layout import LoRALayout, LoRAModule


def changes(flat: torch.Tensor, layout: LoRALayout) -> list[torch.Tensor]:
    """ΔW (..., out, in) of every module, in float64."""
    return [up.double() @ down.double() for down, up in layout.unflatten(flat).values()]


def assert_same_change(first: torch.Tensor, second: torch.Tensor, layout: LoRALayout) -> None:
    for one, other in zip(changes(first, layout), changes(second, layout), strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def mixed(flat: torch.Tensor, layout: LoRALayout, rotation: bool = False) -> torch.Tensor:
    """Other factors of the same ΔW: a random invertible R in every module, or a rotation times three."""
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for name, (down, up) in layout.unflatten(flat).items():
        matrix = torch.randn(layout.rank, layout.rank, generator=generator) + 2 * torch.eye(layout.rank)
        matrix = 3 * torch.linalg.qr(matrix)[0] if rotation else matrix
        factors[name] = (matrix @ down, up @ matrix.inverse())
    return layout.flatten(factors)


def test_canonical_form_keeps_the_change(layout, loras):
    assert_same_change(canonical(loras, layout), loras, layout)


def test_canonical_form_is_a_fixed_point(layout, loras):
    once = canonical(loras, layout)
    assert (canonical(once, layout) - once).norm() <= 1e-5 * once.norm()


def test_equal_changes_have_equal_canonical_factors(layout, loras):
    other = mixed(loras, layout)
    assert (other - loras).abs().max() > 0.1
    torch.testing.assert_close(canonical(other, layout), canonical(loras, layout), rtol=1e-4, atol=1e-4)


def test_canonical_factors_are_balanced_descending_and_signed(layout, loras):
    for down, up in layout.unflatten(canonical(loras, layout)).values():
        rows, columns = down @ down.mT, up.mT @ up  # both are the singular values on the diagonal
        torch.testing.assert_close(rows, columns, rtol=1e-4, atol=1e-5)
        values = rows.diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(rows, torch.diag_embed(values), rtol=1e-4, atol=1e-5)
        assert (values.diff(dim=-1) <= 0).all()
        assert (down.gather(-1, down.abs().argmax(-1, keepdim=True)) > 0).all()


def test_values_are_those_of_the_whole_matrix(layout, loras):
    down, up = layout.unflatten(loras[0])[layout.names[0]]
    _, values, _ = thin_svd(down, up)
    torch.testing.assert_close(values, torch.linalg.svdvals(up.double() @ down.double())[:2], rtol=1e-6, atol=1e-6)


def test_no_change_stays_no_change(layout, loras):
    start = layout.flatten({name: (down, up * 0) for name, (down, up) in layout.unflatten(loras[0]).items()})
    assert torch.equal(canonical(start, layout), torch.zeros(layout.numel))


def test_one_lora_at_a_time_gives_the_same(layout, loras):
    torch.testing.assert_close(canonical(loras[3], layout), canonical(loras, layout)[3])


def test_modules_in_any_order_of_shapes():
    modules = [LoRAModule(f"m.{i}", *size) for i, size in enumerate([(6, 4), (3, 5), (6, 4), (4, 6)])]
    layout = LoRALayout(tuple(modules), rank=2)
    loras = torch.randn(3, layout.numel, generator=torch.Generator().manual_seed(1))
    assert_same_change(canonical(loras, layout), loras, layout)


def test_a_higher_rank_is_bit_for_bit_exact(layout, loras):
    target = LoRALayout(layout.modules, rank=5)
    wider, error = change_rank(loras, layout, target)
    assert torch.equal(error, torch.zeros(len(loras), dtype=torch.float64))
    for one, other in zip(changes(wider, target), changes(loras, layout), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_back_to_the_lower_rank_is_exact(layout, loras):
    target = LoRALayout(layout.modules, rank=5)
    back, error = change_rank(mixed(change_rank(loras, layout, target)[0], target), target, layout)
    assert error.max() < 1e-6
    assert_same_change(back, loras, layout)


def test_a_rank_above_the_matrix_is_no_obstacle(layout, loras):
    # three inputs: a LoRA of rank 5 has three singular values there
    target = LoRALayout(layout.modules, rank=5)
    flat = torch.randn(2, target.numel, generator=torch.Generator().manual_seed(2))
    assert_same_change(canonical(flat, target), flat, target)


def test_the_error_of_a_lower_rank_is_stated_and_the_smallest(layout, loras):
    target = LoRALayout(layout.modules, rank=1)
    narrow, error = change_rank(loras, layout, target)
    lost = whole = smallest = torch.zeros(len(loras), dtype=torch.float64)
    for before, after in zip(changes(loras, layout), changes(narrow, target), strict=True):
        lost = lost + (after - before).square().sum((-2, -1))
        whole = whole + before.square().sum((-2, -1))
        smallest = smallest + torch.linalg.svdvals(before)[:, 1:].square().sum(-1)
    torch.testing.assert_close(error, (lost / whole).sqrt(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lost, smallest, rtol=1e-5, atol=1e-7)
    assert error.min() > 0.05


def test_other_modules_are_refused_by_name(layout, loras):
    other = LoRALayout((layout.modules[0], LoRAModule("mid_block.else", 3, 5)), rank=1)
    with pytest.raises(ValueError, match=r"module 1 is mid_block\.attentions\.0.* instead of mid_block\.else"):
        change_rank(loras, layout, other)


def test_alignment_undoes_rotation_and_scale(layout, loras):
    start = loras[0]
    turned = mixed(start, layout, rotation=True)
    torch.testing.assert_close(align(turned, start, layout), start, rtol=1e-4, atol=1e-5)


def test_alignment_keeps_the_change_and_comes_closer(layout, loras):
    start, foreign = loras[0], mixed(loras[1:], layout)
    aligned = align(foreign, start, layout)
    assert_same_change(aligned, foreign, layout)
    for name, (down, _) in layout.unflatten(aligned).items():
        goal = layout.unflatten(start)[name][0]
        before = layout.unflatten(foreign)[name][0]
        before = before * (goal.norm() / before.flatten(1).norm(dim=1))[:, None, None]  # only the rotation is judged
        assert ((down - goal).flatten(1).norm(dim=1) <= (before - goal).flatten(1).norm(dim=1) + 1e-5).all()


def test_alignment_of_an_empty_module(layout, loras):
    empty = torch.zeros(layout.numel)
    assert torch.equal(align(empty, loras[0], layout), empty)
