"""The miniature's command line."""

import sys

from miniature import __main__ as commands


def test_an_error_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(commands, "silence_library_logs", lambda: None)
    words = ["build", "held_out", "--build", tmp_path / "build", "--weights", tmp_path / "weights"]
    monkeypatch.setattr(sys, "argv", ["miniature", *map(str, words)])
    assert commands.main() == 1
    output = capsys.readouterr()
    assert output.out.startswith("stage held_out: ")
    assert len(output.err.splitlines()) == 1
    assert "holds no LoRAs of split 'held_out'" in output.err
