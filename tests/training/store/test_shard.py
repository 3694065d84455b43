"""Headers of shards: whatever disagrees is refused with the path, what was found and what was expected."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from training.store.shard import read_shard
from training.store.shard_file import MAX_HEADER_BYTES, read_header

GOOD: dict[str, Any] = {
    "__metadata__": {"people": "[3, 4]", "provenance": '[{"seed": 1}]', "provenance_of": "[0, 0]"},
    "loss": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "loras": {"dtype": "F32", "shape": [2, 5], "data_offsets": [8, 48]},
}


def written(folder: Path, header: Any, size: int = 48) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "shard.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    return path


def changed(name: str, **values: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | values}


def test_a_whole_shard_is_read(tmp_path):
    shard = read_shard(written(tmp_path, GOOD))
    assert shard.people == (3, 4)
    assert shard.provenance == ({"seed": 1}, {"seed": 1})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (changed("__metadata__", people="[3, 4, 5]"), r"3 people, but 'loras' has the shape \[2, 5\]"),
        (changed("__metadata__", people="[3]"), "1 people, but 'loras'"),
        (changed("__metadata__", people="[3, 3]"), "person 3 twice"),
        (changed("__metadata__", people="[3, true]"), "not a list of numbers and names"),
        (changed("__metadata__", people='{"3": 4}'), "not a list of numbers and names"),
        (changed("__metadata__", people="[]"), "no people"),
        (changed("__metadata__", people="[3, 4"), "damaged shard of a LoRA store"),
        (changed("__metadata__", people="[" * 100_000), "damaged shard of a LoRA store"),
        (changed("__metadata__", provenance_of="[0, 1]"), "not a list of numbers below 1"),
        (changed("__metadata__", provenance_of="[0, -1]"), "not a list of numbers below 1"),
        (changed("__metadata__", provenance_of="[0]"), "2 people and 1 provenances"),
        (changed("__metadata__", provenance="[3]"), "not a list of JSON objects"),
        ({name: GOOD[name] for name in ("__metadata__",)}, r"'loras' has the shape \[\]"),
        (changed("loras", shape=[2, 5, 1]), r"LoRAs of the shape \[2, 5, 1\], expected \(2, numel\)"),
        (changed("__metadata__", people=3), "metadata are not texts by name"),
        (changed("loras", data_offsets=[-40, 0]), r"data_offsets of tensor 'loras' is \[-40, 0\]"),
        (changed("loras", shape=[-2, -5]), r"shape of tensor 'loras' is \[-2, -5\]"),
        (changed("loras", shape=[2, True]), r"shape of tensor 'loras' is \[2, True\]"),
        (changed("loras", shape=[2, 6]), r"F32 \[2, 6\] at \[8, 48\], expected 48 bytes"),
        (changed("loras", data_offsets=[8, 44]), r"at \[8, 44\], expected 40 bytes"),
        (changed("loras", data_offsets=[0, 40]), "begins at byte 0, expected 8"),
        (changed("loras", data_offsets=[16, 56]), "begins at byte 16, expected 8"),
        (changed("loras", dtype="F33"), "'F33', expected one of"),
        (changed("loras", dtype=["F32"]), "expected one of"),
        (GOOD | {"loras": [1, 2]}, "no dtype, shape and data_offsets"),
        (b"[1, 2]", "it is a list, expected tensors by name"),
        (b"[" * 100_000, "not a safetensors file"),
        (b'{"loras": 1, "loras": 2}', "not a safetensors file"),
    ],
)
def test_what_disagrees_is_refused(tmp_path, header, message):
    parsed = header if isinstance(header, dict) else {}
    size = max((entry["data_offsets"][1] for entry in parsed.values() if "data_offsets" in entry), default=0)
    with pytest.raises(ValueError, match=message) as caught:
        read_shard(written(tmp_path, header, max(size, 0)))
    assert "shard.safetensors" in str(caught.value)


@pytest.mark.parametrize(("size", "message"), [(40, "is truncated: it has"), (60, "another file was written over it")])
def test_a_file_has_the_size_that_its_header_says(tmp_path, size, message):
    with pytest.raises(ValueError, match=message):
        read_header(written(tmp_path, GOOD, size))


@pytest.mark.skipif(sys.platform == "win32", reason="a file with a hole, pipes")
def test_no_memory_is_taken_for_a_header_that_is_too_long(tmp_path):
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
        file.truncate(10**12)
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_header(path)
    path.write_bytes((MAX_HEADER_BYTES - 1).to_bytes(8, "little") + b"{")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_header(path)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors is not a regular file"):
            read_header(tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_header(tmp_path / "none.safetensors")
