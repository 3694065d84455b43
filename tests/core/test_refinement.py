"""Refinement on a toy base model whose right answers are known."""

import math
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from difflora_core.config import RefinementSettings
from difflora_core.refinement import DOWN, UP, LoRAFactors, diffusion_loss, refine

CPU = torch.device("cpu")


@pytest.fixture
def lora() -> dict[str, Tensor]:
    """Two modules of rank 2, one with an alpha, and a tensor of another kind."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (inputs, outputs) in {"first": (5, 3), "second": (4, 6)}.items():
        tensors[name + DOWN] = torch.randn(2, inputs, generator=generator)
        tensors[name + UP] = torch.randn(outputs, 2, generator=generator)
    return tensors | {"second.alpha": torch.tensor(1.0), "other.diff": torch.ones(2)}


def test_delta_weight_is_up_times_down_scaled_by_alpha_over_rank(lora: dict[str, Tensor]) -> None:
    factors = LoRAFactors(lora, CPU)
    assert factors.modules == ["first", "second"]
    torch.testing.assert_close(factors.delta_weight("first"), lora["first" + UP] @ lora["first" + DOWN])
    torch.testing.assert_close(factors.delta_weight("second"), 0.5 * lora["second" + UP] @ lora["second" + DOWN])


def test_factors_are_float32_copies(lora: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in lora.items()}
    factors = LoRAFactors({name: tensor.half() for name, tensor in lora.items()}, CPU)
    assert {factor.dtype for factor in factors.parameters.values()} == {torch.float32}
    factors = LoRAFactors(lora, CPU)
    with torch.no_grad():
        for factor in factors.parameters.values():
            factor.add_(1.0)
    assert all(torch.equal(lora[name], tensor) for name, tensor in before.items())
    trained = factors.tensors()
    assert trained.keys() == lora.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, lora[name] + (1.0 if name in factors.parameters else 0.0))
        assert not tensor.requires_grad
        assert tensor.data_ptr() != lora[name].data_ptr()


def test_alphas_may_be_plain_numbers(lora: dict[str, Tensor]) -> None:
    factors = LoRAFactors(lora | {"second.alpha": 1.0}, CPU)
    assert torch.equal(factors.delta_weight("second"), LoRAFactors(lora, CPU).delta_weight("second"))
    assert torch.equal(factors.tensors()["second.alpha"], lora["second.alpha"])


@pytest.mark.parametrize(("keys", "named"), [(["unet.to_q.lora_A.weight"], "unet.to_q.lora_A.weight"), ([], "missing")])
def test_other_names_than_kohyas_are_refused(keys: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"kohya names.*{named}"):
        LoRAFactors({key: torch.ones(2, 2) for key in keys}, CPU)


@pytest.mark.parametrize(("there", "missing"), [("a down", "up"), ("an up", "down")])
def test_half_a_pair_of_factors_is_refused(lora: dict[str, Tensor], there: str, missing: str) -> None:
    del lora[f"second.lora_{missing}.weight"]
    with pytest.raises(ValueError, match=f"has {there} factor but no {missing} factor for second: the file is damaged"):
        LoRAFactors(lora, CPU)


def test_an_alpha_under_another_name_is_refused(lora: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"second\.lora\.alpha is an alpha .* expected second\.alpha"):
        LoRAFactors(lora | {"second.lora.alpha": 1.0}, CPU)


LATENTS = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))


def sigmas_at(positions: Tensor) -> Tensor:
    return 0.1 + 10 * positions


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_is_the_squared_error_of_what_the_network_predicts(prediction_type: str) -> None:
    """A network whose ε or v is wrong by 0.3 everywhere has the loss 0.09, at every noise level."""
    wrong, clean_of = 0.3, {}

    def noise_levels(positions: Tensor) -> Tensor:
        assert torch.equal((positions * len(positions)).floor(), torch.arange(len(positions)).float())
        return sigmas_at(positions)

    def denoise(noisy: Tensor, sigmas: Tensor) -> Tensor:
        # What was drawn, drawn again: images, positions and noise come in this order from one generator.
        generator = torch.Generator().manual_seed(7)
        clean = LATENTS[torch.randint(0, len(LATENTS), (len(noisy),), generator=generator)]
        torch.rand(len(noisy), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        sigma = sigmas.view(-1, 1, 1, 1)
        torch.testing.assert_close(noisy, clean + sigma * noise)
        clean_of["drawn"] = clean
        per_error = sigma if prediction_type == "epsilon" else sigma / (1 + sigma.square()).sqrt()
        return clean - per_error * wrong

    loss = diffusion_loss(
        denoise, noise_levels, LATENTS, 5, torch.Generator().manual_seed(7), prediction_type=prediction_type
    )
    assert len(clean_of["drawn"]) == 5
    assert loss.item() == pytest.approx(wrong**2, rel=1e-4)


def test_loss_has_a_gradient_for_the_model() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    loss = diffusion_loss(
        lambda noisy, _: scale * noisy,
        sigmas_at,
        LATENTS,
        4,
        torch.Generator().manual_seed(0),
        prediction_type="epsilon",
    )
    loss.backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0


def distance(factors: LoRAFactors) -> Tensor:
    """Squared distance of the first module's change from a change of rank 1."""
    return (factors.delta_weight("first") - torch.ones(3, 5)).square().mean()


def test_refining_reduces_the_loss(lora: dict[str, Tensor]) -> None:
    factors = LoRAFactors(lora, CPU)
    losses = list(refine(factors, lambda: distance(factors), RefinementSettings(steps=200, learning_rate=0.05)))
    assert len(losses) == 200
    assert losses[0] == pytest.approx(distance(LoRAFactors(lora, CPU)).item()), "the loss before the first update"
    assert losses[-1] < 0.01 * losses[0]
    assert torch.equal(factors.tensors()["second" + UP], lora["second" + UP]), "no gradient, no change"


def test_learning_rate_falls_along_a_cosine(lora: dict[str, Tensor]) -> None:
    """With a constant gradient every update of Adam is as long as the learning rate."""
    factors, steps, rate = LoRAFactors(lora, CPU), 8, 0.01
    factor = factors.parameters["first" + UP]
    values = [factor.detach().clone()]
    for _ in refine(factors, lambda: factor.sum(), RefinementSettings(steps, rate)):
        values.append(factor.detach().clone())
    updates = [(before - after).mean().item() for before, after in pairwise(values)]
    expected = [rate * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    assert updates == pytest.approx(expected, rel=1e-3)


def test_a_caller_can_stop_between_two_steps(lora: dict[str, Tensor]) -> None:
    factors, calls = LoRAFactors(lora, CPU), []

    def loss() -> Tensor:
        calls.append(1)
        return distance(factors)

    assert len(list(islice(refine(factors, loss, RefinementSettings(steps=100)), 3))) == 3
    assert len(calls) == 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_changes_nothing(lora: dict[str, Tensor], value: float) -> None:
    factors = LoRAFactors(lora, CPU)
    with pytest.raises(ValueError, match="not finite at step 1 of 2: lower `learning_rate`"):
        list(refine(factors, lambda: distance(factors) * value, RefinementSettings(steps=2)))
    assert all(torch.equal(tensor, lora[name]) for name, tensor in factors.tensors().items())


def test_small_gradients_of_a_float16_model_are_not_lost(lora: dict[str, Tensor]) -> None:
    """They are about 1e-8 here, which float16 rounds to zero."""
    factors = LoRAFactors(lora, CPU)

    def loss() -> Tensor:
        in_model = factors.delta_weight("first").half()
        return 1e-7 * (in_model.float() - 1.0).square().mean()

    losses = list(refine(factors, loss, RefinementSettings(steps=100, learning_rate=0.05)))
    assert losses[-1] < 0.1 * losses[0]


def test_a_step_whose_gradients_overflow_is_left_out(lora: dict[str, Tensor]) -> None:
    """They fit into float16 from a scale of 1/8 of the first on."""
    factors = LoRAFactors(lora, CPU)
    factor = factors.parameters["first" + UP]
    values = [factor.detach().clone()]
    for _ in refine(factors, lambda: 7.0 * factor.half().sum().float(), RefinementSettings(steps=5)):
        values.append(factor.detach().clone())
    assert [torch.equal(*pair) for pair in pairwise(values)] == [True, True, True, False, False]


def test_gradients_that_are_never_finite_are_an_error(lora: dict[str, Tensor]) -> None:
    factors = LoRAFactors(lora, CPU)

    def loss() -> Tensor:
        change = factors.delta_weight("first")
        return (change - change.detach()).square().sum().sqrt()  # zero, with a slope of 0 / 0

    with pytest.raises(ValueError, match="not finite in any of 3 steps"):
        list(refine(factors, loss, RefinementSettings(steps=3)))
    assert all(torch.equal(tensor, lora[name]) for name, tensor in factors.tensors().items())


def test_factors_of_convolutions_are_matrices(lora: dict[str, Tensor]) -> None:
    expected = LoRAFactors(lora, CPU).delta_weight("second")
    of_convolutions = lora | {key: lora[key][..., None, None] for key in ("second" + UP, "second" + DOWN)}
    factors = LoRAFactors(of_convolutions, CPU)
    assert torch.equal(factors.delta_weight("second"), expected)
    assert {key: tensor.shape for key, tensor in factors.tensors().items()} == {
        key: tensor.shape for key, tensor in of_convolutions.items()
    }
    wide = lora | {"second" + DOWN: torch.ones(2, 4, 3, 3)}
    assert LoRAFactors(wide, CPU).delta_weight("second").shape == (6, 36)


def test_what_is_not_trained_is_known(lora: dict[str, Tensor]) -> None:
    more = lora | {"first.diff_b": torch.ones(3), "third.hada_w1_a": torch.ones(2, 2), "third.alpha": torch.ones(())}
    assert LoRAFactors(more, CPU).fixed.keys() == {"other.diff", "first.diff_b", "third.hada_w1_a", "third.alpha"}


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("first.dora_scale", "DoRA"),
        ("first.lora_mid.weight", "mid"),
        ("first.diff", "difference"),
        ("first.x", "unknown"),
    ],
)
def test_a_module_with_more_than_factors_is_refused(lora: dict[str, Tensor], key: str, what: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} makes the change .* more than up · down \({what}\)"):
        LoRAFactors(lora | {key: torch.ones(2, 2)}, CPU)


def test_a_loss_without_the_lora_is_an_error(lora: dict[str, Tensor]) -> None:
    """Packed weights compute with their own values, whatever is added to them."""
    with pytest.raises(ValueError, match="the loss does not depend on the LoRA"):
        list(refine(LoRAFactors(lora, CPU), lambda: torch.tensor(1.0), RefinementSettings(steps=3)))
