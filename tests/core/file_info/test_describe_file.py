"""Files of no known kind, and what keeps the output short whatever a file holds."""

import json

import torch

from difflora_core.file_info.describe_file import MAX_LINES, describe_file
from difflora_core.files import write_tensors
from miniature.paths import WEIGHTS


def test_an_unknown_file_is_counted(tmp_path):
    tensors = {f"layer.{number}": torch.zeros(2, 3) for number in range(20)}
    write_tensors(tmp_path / "x.safetensors", {**tensors, "n": torch.zeros(1, dtype=torch.int64)}, {"what": "a test"})
    facts = describe_file(tmp_path / "x.safetensors")
    assert "of no kind that is known here" in facts[0]
    assert facts[1].endswith("121 values, 21 tensors (20 F32, 1 I64)")
    assert facts[2].endswith("… (21 in all)")
    assert facts[3] == "metadata: what"


def test_an_empty_file(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {})
    assert describe_file(tmp_path / "x.safetensors", metadata=True)[1:] == [
        "file: 0.0 MB, 0 values, 0 tensors (none)",
        "tensors: none",
        "metadata: none",
        "metadata: none",
    ]


def test_metadata_are_taken_apart(tmp_path):
    metadata = {"settings": json.dumps({"deep": {"steps": 20, "rate": 0.00123456}, "name": "x"}), "note": "{no JSON"}
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, metadata)
    lines = describe_file(tmp_path / "x.safetensors", metadata=True)
    assert lines[-5:] == [
        "metadata:",
        "  note: {no JSON",
        "  settings:",
        "    deep: steps 20, rate 0.001235",
        "    name: x",
    ]


def test_no_file_prints_much(tmp_path):
    deep = "{" + '"a": {"b": 1, "c": {' * 200 + "}" * 401
    long = {f"\x1b[2J{number}\n" + "k" * 1000: "v" * 1000 for number in range(2000)}
    write_tensors(
        tmp_path / "x.safetensors",
        {"\x1b[31m" + "t" * 5000: torch.zeros(1)},
        {**long, "deep": deep, "most": "{" * 9999},
    )
    lines = describe_file(tmp_path / "x.safetensors", metadata=True)
    assert len(lines) < MAX_LINES + 10
    assert lines[-1].endswith("lines more")
    assert all(len(line) < 2500 and line.isprintable() for line in lines[1:])


def test_weights_are_not_read(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: 1 / 0)
    assert describe_file(WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors")
