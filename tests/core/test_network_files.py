"""Half precision is for weights alone."""

import pytest
import torch

from difflora_core.network_files import cast_weights, exact_state


def network() -> torch.nn.Module:
    made = torch.nn.BatchNorm1d(3)
    made.running_mean += 1 / 3
    return made


def test_statistics_keep_their_dtype():
    made = cast_weights(network(), "cpu", torch.bfloat16)
    assert made.weight.dtype == torch.bfloat16
    assert torch.equal(made.running_mean, network().running_mean)
    assert made.num_batches_tracked.dtype == torch.int64


def test_a_file_has_statistics_in_float32():
    state = exact_state(network(), torch.float16)
    assert state["weight"].dtype == torch.float16
    assert state["running_mean"].dtype == torch.float32
    assert state["running_mean"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "bfloat16"])
def test_weights_are_floating_point_numbers(dtype):
    with pytest.raises(ValueError, match=r"expected one of torch.float32, .*, torch.float16, torch.float64"):
        cast_weights(network(), "cpu", dtype)
    with pytest.raises(ValueError, match=f"dtype is {dtype!r}, expected one of"):
        exact_state(network(), dtype)


def test_weights_that_overflow_are_not_saved():
    made = network()
    made.weight.data[1] = 7e4
    with pytest.raises(ValueError, match=r"weight has weights up to 7e\+04, and torch.float16 ends at 6.55e\+04"):
        exact_state(made, torch.float16)
    assert exact_state(made, torch.bfloat16)["weight"].isfinite().all()
