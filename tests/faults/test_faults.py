"""The program of the session `faults` still works: one kill of a trainer, and a wrong result is found."""

import os

import pytest
import torch

from difflora_core.files import write_tensors
from tests.faults.fault_cases import World, by_name
from tests.faults.folder_state import contents, damaged, differences, leftovers
from tests.faults.full_disk import is_clear
from tests.faults.killed_runs import kill_case


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks its runs")
def test_a_killed_run_is_resumed_and_compared(tmp_path):
    found = kill_case(World(tmp_path), by_name("train-lae"), 1, seed=0, on_kill=lambda: None)
    assert (found.kills, found.equal) == (1, 1), found.problems
    assert not found.problems
    assert len(found.moments) == 1


def test_a_wrong_result_is_found(tmp_path):
    for name, value in (("whole", 1.0), ("wrong", 1.0000001)):
        write_tensors(tmp_path / name / "x.safetensors", {"x": torch.tensor([value])})
        (tmp_path / name / "record.json").write_text(f'{{"seconds": {value}, "item": "a"}}')
    expected, found = contents(tmp_path / "whole"), contents(tmp_path / "wrong")
    assert differences(found, expected) == ["x.safetensors differs"]
    assert differences({}, expected) == ["record.json is missing", "x.safetensors is missing"]
    path = tmp_path / "wrong" / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (path.parent / ".x.partial").touch()
    assert [line.split()[0] for line in damaged(tmp_path / "wrong")] == ["x.safetensors"]
    assert leftovers(tmp_path / "wrong") == [".x.partial is left"]


def test_a_message_says_what_is_full_what_was_kept_and_what_to_do():
    assert is_clear("No space left on device, so this file was not written (nothing is left of it); free some space")
    assert not is_clear("OSError: [Errno 28] No space left on device")
