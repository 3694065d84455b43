"""Headers of shards are read without the LoRAs, and damaged files are named."""

import pytest
import torch

from difflora_core.files import write_tensors
from training.store.shard_file import read_header, read_measured


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shard.safetensors"
    tensors = {"loras": torch.zeros(2, 5), "loss": torch.tensor([0.5, 0.25]), "count": torch.tensor([3, 4])}
    write_tensors(path, tensors, {"people": "[1, 2]"})
    return path


def test_the_header_says_where_the_data_is(path):
    header, begin = read_header(path)
    assert header["loras"]["shape"] == [2, 5]
    assert header["__metadata__"] == {"people": "[1, 2]"}
    first, last = header["loss"]["data_offsets"]
    content = path.read_bytes()[begin + first : begin + last]
    assert torch.frombuffer(bytearray(content), dtype=torch.float32).tolist() == [0.5, 0.25]


def test_values_per_person_are_read_whatever_their_dtype(path):
    assert read_measured(path) == {"loss": [0.5, 0.25], "count": [3.0, 4.0]}


@pytest.mark.parametrize(("keep", "message"), [(-5, "is truncated"), (4, "is not a safetensors file")])
def test_a_damaged_file_is_named(path, keep, message):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"shard\.safetensors {message}"):
        read_header(path)
