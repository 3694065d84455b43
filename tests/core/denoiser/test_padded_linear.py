"""Padded matrices: the same function, gradients, training and state as without padding, on every path of the DiT.

A CPU pads nothing by itself, so the layers here are told to; a GPU decides the same way from `PaddedLinear.is_faster`.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from difflora_core.denoiser import dit as dit_module
from difflora_core.denoiser.config import CONFIGURATIONS, DiTConfig
from difflora_core.denoiser.dit import DiT
from difflora_core.denoiser.padded_linear import MIN_ROWS, PaddedLinear, padded_width
from training.engine.state import TrainState

ODD = DiTConfig(tokens=3, latent_width=4, width=22, layers=2, heads=3, head_width=8, condition_width=10)
"""Its four products per block are 22 → 72, 24 → 22, 22 → 88 and 88 → 22."""


class AlwaysPadded(PaddedLinear):
    """Pads on a CPU too, and counts how often."""

    padded = 0

    def is_faster(self, x: Tensor) -> bool:
        AlwaysPadded.padded += 1
        return True


class PlainLinear(nn.Linear):
    """Torch's layer, whatever the DiT says of padding."""

    def __init__(self, in_features: int, out_features: int, keep_padding: bool = False) -> None:
        super().__init__(in_features, out_features)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[DiT, DiT]]:
    """Makes an unpadded and a padded DiT of the same weights, none of which is zero."""

    def make(dtype: torch.dtype = torch.float32) -> tuple[DiT, DiT]:
        made = []
        for linear in (PlainLinear, AlwaysPadded):
            monkeypatch.setattr(dit_module, "PaddedLinear", linear)
            torch.manual_seed(0)
            network = DiT(ODD)
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.1)
            made.append(network.to(dtype))
        monkeypatch.undo()
        AlwaysPadded.padded = 0
        plain, padded = made
        return plain, padded

    return make


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 3, 4, generator=g, dtype=dtype)
    return noisy, torch.tensor([0, 300]), torch.randn(2, 10, generator=g, dtype=dtype)


def results(network: DiT, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The output and the gradients of inputs and parameters, by name."""
    noisy, times, condition = inputs(dtype)
    noisy.requires_grad_()
    condition.requires_grad_()
    out = network(noisy, times, condition)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    (out * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"output": out.detach(), "noisy": noisy.grad, "condition": condition.grad, **gradients}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """By the norm of the difference relative to that of the tensor."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        error = (found[name] - tensor).double().norm() / tensor.double().norm()
        assert error <= tolerance, f"{name}: {error:.2g}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_output_and_gradients_equal_the_unpadded_networks(networks, dtype, tolerance):
    plain, padded = networks(dtype)
    assert_equal(results(padded, dtype), results(plain, dtype), tolerance)
    assert AlwaysPadded.padded == 4 * ODD.layers


def test_first_weights_and_files_equal_the_unpadded_networks(networks):
    torch.manual_seed(3)
    plain = nn.Linear(22, 88)
    torch.manual_seed(3)
    assert_equal(PaddedLinear(22, 88).state_dict(), plain.state_dict(), 0.0)
    plain, padded = networks()
    assert_equal(padded.state_dict(), plain.state_dict(), 0.0)
    padded.load_state_dict(plain.state_dict())
    assert [p.shape for p in padded.parameters()] == [p.shape for p in plain.parameters()]


def test_training_with_weight_decay_and_ema_equals_the_unpadded_networks(networks, tmp_path):
    saved = []
    for network in networks(torch.float64):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
        state = TrainState(network, optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            network(*inputs(torch.float64)).square().mean().backward()
            optimizer.step()
            state.update_ema(0.9)
        saved.append(dict(state._tensors()))
    assert any(name.startswith("exp_avg_sq.blocks.0.mlp.0") for name in saved[0])
    assert_equal(saved[1], saved[0], 1e-9)


def test_autocast_pads_in_its_dtype(networks):
    plain, padded = networks()
    seen = []
    padded.blocks[0].mlp[0].register_forward_hook(lambda _, __, out: seen.append((out.dtype, out.shape[-1])))
    with torch.autocast("cpu", torch.bfloat16):
        found = results(padded)
        expected = results(plain)
    assert seen == [(torch.bfloat16, 128)]
    assert found["blocks.0.mlp.0.weight"].dtype == torch.float32
    assert_equal(found, expected, 2e-2)  # bfloat16 has 8 bits; sums of another order round differently


def test_padded_entries_between_two_layers_are_zero(networks):
    _, padded = networks()
    hidden = []
    for block in padded.blocks:
        block.mlp[2].register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    padded(*inputs())
    assert [h.shape[-1] for h in hidden] == [128, 128]
    assert not any(h[..., 88:].any() for h in hidden)


def test_gradient_checkpointing_with_padding(networks):
    plain, padded = networks()
    padded.gradient_checkpointing = True
    assert_equal(results(padded), results(plain), 1e-6)
    assert AlwaysPadded.padded == 2 * 4 * ODD.layers


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_blocks_with_padding_equal_those_without_compilation(networks, autocast):
    eager, made = networks()[1], networks()[1]
    made.compile_blocks(backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert_equal(results(made), results(eager), 2e-2 if autocast else 1e-6)


@pytest.mark.parametrize("name", ["miniature", "small"])
def test_aligned_widths_are_never_padded(name):
    with torch.device("meta"):
        network = DiT(CONFIGURATIONS[name])
    layers = [layer for layer in network.modules() if isinstance(layer, PaddedLinear)]
    assert len(layers) == 4 * CONFIGURATIONS[name].layers
    assert not any(layer.unaligned for layer in layers)


def test_all_products_of_the_papers_blocks_become_multiples_of_64():
    with torch.device("meta"):
        block = DiT(CONFIGURATIONS["paper"]).blocks[0]
    layers = [layer for layer in block.modules() if isinstance(layer, PaddedLinear)]
    assert all(layer.unaligned for layer in layers)
    widths = [(padded_width(layer.in_features), padded_width(layer.out_features)) for layer in layers]
    assert widths == [(1472, 4416), (1472, 1472), (1472, 5824), (5824, 1472)]


def test_a_cpu_computes_what_a_plain_layer_does_bit_for_bit(networks):
    plain, _ = networks()
    default = DiT(ODD)
    default.load_state_dict(plain.state_dict())
    assert_equal(results(default), results(plain), 0.0)


class OnGPU:
    """What `is_faster` reads of a tensor on a GPU."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        self.rows, self.shape, self.dtype = rows, (rows, 22), dtype

    def numel(self) -> int:
        return self.rows * 22


@pytest.mark.parametrize(
    ("rows", "dtype", "faster"),
    [
        (MIN_ROWS, torch.bfloat16, True),
        (MIN_ROWS, torch.float16, True),
        (MIN_ROWS - 1, torch.bfloat16, False),
        (MIN_ROWS, torch.float32, False),
    ],
)
def test_a_gpu_pads_many_rows_in_16_bits(rows, dtype, faster):
    assert PaddedLinear(22, 88).is_faster(OnGPU(rows, dtype)) == faster
