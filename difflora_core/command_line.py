"""What all command lines share: errors in one line, output for every encoding, quiet libraries, progress bars."""

import argparse
import errno
import importlib
import io
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:  # torch takes seconds to import, and most commands bring it themselves
    import torch

TRACEBACK = "--traceback"
EXPECTED = (ValueError, OSError, RuntimeError, ImportError)
"""Errors that a user can fix; any other one is a fault of ours."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
MAX_SEED = 2**64 - 1
SLOW_SECONDS = 2.0
"""Of work, after which `progress` shows a bar."""
Item = TypeVar("Item")


def run_command(parser: argparse.ArgumentParser, words: Sequence[str] | None = None, hint: str = "") -> int:
    """Parse a command line and run it; an error is one line, and with `--traceback`, anywhere, the whole traceback.

    Args:
        parser: Sets `run`, which is called with the parsed arguments.
        words: The command line; None takes the process's.
        hint: What is said after "interrupted".

    Returns:
        The exit code: 0, 1 after an error, 130 after an interruption.
    """
    escape_characters()
    words = list(sys.argv[1:] if words is None else words)
    parser.add_argument(TRACEBACK, action="store_true", help="show where an error comes from")
    shown = TRACEBACK in words
    arguments = parser.parse_args([word for word in words if word != TRACEBACK])
    try:
        with nullcontext() if shown else _threads_in_one_line():
            arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # of `difflora info x.safetensors | head -1`
        sys.stdout = io.StringIO()
        return 1
    except KeyboardInterrupt:
        print(f"interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if shown:
            traceback.print_exc()
        else:
            print(describe_error(error), file=sys.stderr)
        return 1
    return 0


@contextmanager
def interruptible(hint: str = "") -> Iterator[None]:
    """While open, Ctrl-C ends the process with one line: where libraries are imported, before `run_command`."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted{hint}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def difflora() -> int:
    """The command `difflora`; the exit code."""
    with interruptible():
        try:
            command = importlib.import_module(".command", __package__)  # brings torch, which takes seconds
        except ModuleNotFoundError as error:
            if error.name != "torch":  # requirements.txt leaves it out
                raise
            print(f"{describe_error(error)}. Install it: python -m pip install torch", file=sys.stderr)
            return 1
    code: int = command.main()
    return code


@contextmanager
def _threads_in_one_line() -> Iterator[None]:
    """While open, an error that ends a library's thread (TensorBoard's, on a full disk) is one line, too."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, Exception):
            print(describe_error(ended.exc_value), file=sys.stderr)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    text = " ".join(str(error).split()) or "no message"
    known = isinstance(error, EXPECTED)
    if isinstance(error, OSError) and error.errno is not None:
        from .files import FULL  # brings torch, as whatever writes large files has

        if error.errno in FULL and "free some space" not in text:  # of a library's writer
            text += "; what was written before is kept: free some space and run the same command again"
        text += _file_in_the_way(error)
    return f"{type(error).__name__}: {text}" + ("" if known else f" (this is a fault; {TRACEBACK} shows where)")


def _file_in_the_way(error: OSError) -> str:
    """What to do where a folder was to be made or entered, and a file has its name; otherwise nothing."""
    one_name = isinstance(error.filename, str | Path) and error.filename2 is None  # not a link to a file that exists
    if error.errno not in (errno.EEXIST, errno.ENOTDIR) or not one_name:
        return ""
    path = Path(error.filename)
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    return "" if file is None else f"; {file} is a file, expected a folder: name another folder, or move the file"


def escape_characters() -> None:
    """Escape, in what is printed from now on, characters that the output's encoding doesn't have (cp1252, ASCII)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def seed(text: str) -> int:
    """Read a seed, for `add_argument(type=seed)`.

    Raises:
        argparse.ArgumentTypeError: It is none that a `torch.Generator` takes.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"found {text[:40]}, expected a whole number from 0 to {MAX_SEED}")
    return number


def choose_device(name: str | None) -> "torch.device":
    """Return the device of this name, without one the GPU where there is one.

    Raises:
        ValueError: There is no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"--device {name} can't be used: {problem}. Found here: {', '.join(here)}") from error
    return device


def silence_library_logs() -> None:
    """Turn off what libraries print for every model that they load: remarks, progress bars, what they will remove.

    The first act of a command that loads models. Processes that it starts are as quiet, by the environment.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # of transformers, too
    for library in ("diffusers", "transformers"):
        os.environ[f"{library.upper()}_VERBOSITY"] = "error"
        logging = importlib.import_module(f"{library}.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def progress(items: Iterable[Item], title: str, unit: str = "it") -> "tqdm[Item]":
    """Go through items with a progress bar that appears when they take long, and only in a terminal.

    Args:
        items: To go through; nothing where the bar is updated by hand.
        title: What is done.
        unit: What an item is.
    """
    return tqdm(items, desc=title, unit=unit, leave=False, delay=SLOW_SECONDS, disable=None)
