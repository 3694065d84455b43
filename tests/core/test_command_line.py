"""What all command lines share."""

import argparse
import errno
import io
import os
import subprocess
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError

import pytest
import torch
from PIL import Image

from difflora_core import command_line
from difflora_core.command_line import choose_device, describe_error, progress, run_command, seed
from miniature.paths import DIFFLORA_CHECKPOINT, ROOT


def parser_of(run: object) -> ArgumentParser:
    parser = ArgumentParser(prog="test")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("do").set_defaults(run=run)
    return parser


def failing(error: BaseException) -> object:
    def run(_: argparse.Namespace) -> None:
        raise error

    return run


def test_success_is_zero(capsys):
    assert run_command(parser_of(lambda _: sys.stdout.write("done\n")), ["do"]) == 0
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\n  on two lines"), "ValueError: wrong on two lines\n"),
        (FileNotFoundError(2, "No such file", "x"), "FileNotFoundError: [Errno 2] No such file: 'x'\n"),
        (KeyError("x"), "KeyError: 'x' (this is a fault; --traceback shows where)\n"),
        (RecursionError(), "RecursionError: no message\n"),
        (AssertionError("Łukasz"), "AssertionError: Łukasz (this is a fault; --traceback shows where)\n"),
    ],
)
def test_an_error_is_one_line(capsys, error, line):
    assert run_command(parser_of(failing(error)), ["do"]) == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("words", [["--traceback", "do"], ["do", "--traceback"]])
def test_the_traceback_is_shown_on_request(capsys, words):
    assert run_command(parser_of(failing(ValueError("wrong"))), words) == 1
    output = capsys.readouterr().err
    assert "Traceback (most recent call last)" in output
    assert output.endswith("ValueError: wrong\n")


def test_an_interruption_is_told(capsys):
    assert run_command(parser_of(failing(KeyboardInterrupt())), ["do"], "; run it again") == 130
    assert capsys.readouterr().err == "interrupted; run it again\n"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; from difflora_core.command_line import difflora; sys.exit(difflora())", "interrupted\n"),
        (
            "import runpy, sys; sys.argv[1:] = ['embed']; runpy.run_module('training', run_name='__main__')",
            "interrupted; the same command resumes from here\n",
        ),
        ("import runpy; runpy.run_module('miniature', run_name='__main__')", "interrupted\n"),
    ],
    ids=["difflora", "training", "miniature"],
)
def test_an_interruption_while_torch_is_imported_is_told(tmp_path, program, said):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, said)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("action", ["print", "raise", "help"])
def test_output_fails_for_no_character(monkeypatch, encoding, action):
    """Neither what is printed, nor an error, nor the help."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    parser = parser_of(failing(ValueError("Łukasz")) if action == "raise" else lambda _: sys.stdout.write("Łukasz"))
    parser.description = "Łukasz"
    if action == "help":
        with pytest.raises(SystemExit):
            run_command(parser, ["--help"])
    else:
        assert run_command(parser, ["do"]) == (action == "raise")
    for stream in (out, err):
        stream.flush()
    assert rb"\u0141ukasz" in out.buffer.getvalue() + err.buffer.getvalue()


def difflora(*words: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "difflora_core.command", *map(str, words)]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, timeout=120)


def test_the_command_runs_under_another_encoding(tmp_path):
    done = difflora("info", tmp_path / "Łukasz.safetensors", PYTHONIOENCODING="cp1252")
    assert done.returncode == 1
    assert done.stderr.endswith(b"\\u0141ukasz.safetensors.\r\n" if os.name == "nt" else b"\\u0141ukasz.safetensors.\n")
    assert b"Traceback" not in done.stderr


def test_without_torch_the_command_says_how_to_install_it():
    program = (
        "import sys; sys.modules['torch'] = None\nfrom difflora_core.command_line import difflora; sys.exit(difflora())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ModuleNotFoundError: ")
    assert done.stderr.endswith(". Install it: python -m pip install torch\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("device", ["xpu", "cuda:99", "nonsense", "cpu:nonsense", "meta2", ""])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=rf"--device {device} can't be used: .*Found here: cpu"):
        choose_device(device)


def test_without_a_name_there_is_a_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device(None) == choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("text", ["-1", str(2**64), "1.5", "nan", "", "x", "9" * 10_000])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(ArgumentTypeError, match=r"found .*, expected a whole number from 0 to 18446744073709551615"):
        seed(text)


def test_every_seed_of_comfyui_is_one():
    for number in (0, 2**63, 2**64 - 1):
        torch.Generator().manual_seed(seed(str(number)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "xpu"], b"--device xpu can't be used"),
        (["--seed", 2**64], b"--seed: found 18446744073709551616"),
        (["--latent-scale", "1e37"], b"latent_scale"),
    ],
)
def test_impossible_options_are_one_line_and_nothing_is_written(tmp_path, options, message):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    out = tmp_path / "p.safetensors"
    done = difflora("personalize", tmp_path / "a.png", "--checkpoint", DIFFLORA_CHECKPOINT, "--out", out, *options)
    assert done.returncode in (1, 2)
    assert message in done.stderr.splitlines()[-1]
    assert b"Traceback" not in done.stderr
    assert not out.exists()


def test_a_full_disk_that_a_library_met_is_said_with_what_to_do():
    line = describe_error(OSError(errno.ENOSPC, "No space left on device"))
    assert line.endswith("what was written before is kept: free some space and run the same command again")
    assert describe_error(OSError(errno.ENOSPC, "full; free some space", "x")).count("free some space") == 1


def test_an_error_of_a_thread_is_one_line(capsys):
    def run(_: argparse.Namespace) -> None:
        thread = threading.Thread(target=os.stat, args=("nowhere",))
        thread.start()
        thread.join()

    parser, before = ArgumentParser(), threading.excepthook
    parser.set_defaults(run=run)
    assert run_command(parser, []) == 0
    assert capsys.readouterr().err.splitlines() == ["FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'"]
    assert threading.excepthook is before


def test_libraries_are_silenced_here_and_in_processes_that_are_started():
    code = (
        "import os, subprocess, sys, warnings\n"
        "from difflora_core.command_line import silence_library_logs\n"
        "if len(sys.argv) < 2:\n"
        "    silence_library_logs()\n"
        "    warnings.warn('to be removed', FutureWarning)\n"
        "    subprocess.run([sys.executable, '-c', os.environ['CODE'], 'started'], check=True)\n"
        "    from diffusers.utils import logging\n"
        "    assert not logging.is_progress_bar_enabled()\n"
        "from transformers.utils import logging\n"
        "assert not logging.is_progress_bar_enabled()\n"
        "assert logging.get_verbosity() == logging.ERROR\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"CODE": code}, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_shown_for_what_is_slow_and_in_a_terminal(monkeypatch, seconds, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(command_line, "SLOW_SECONDS", seconds)
    assert list(progress("abc", "letters", "letter")) == ["a", "b", "c"]
    assert ("letters: " in stream.getvalue()) == (terminal and not seconds)


@pytest.mark.parametrize("inside", [".", "deeper/still"])
def test_a_file_where_a_folder_is_to_be_is_named(tmp_path, inside):
    file = tmp_path / "results"
    file.write_text("kept")
    with pytest.raises(OSError, match="results") as caught:
        (file / inside).mkdir(parents=True, exist_ok=True)
    assert describe_error(caught.value).endswith(
        f"; {file} is a file, expected a folder: name another folder, or move the file"
    )


def test_a_file_that_exists_is_not_called_a_missing_folder(tmp_path):
    """Only the making of a folder is explained: a link's error has two names."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError) as caught:
        os.link(tmp_path / "one", tmp_path / "two")
    assert "expected a folder" not in describe_error(caught.value)
