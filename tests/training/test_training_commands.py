"""What the trainers' commands have in common."""

import importlib
import sys
from argparse import Namespace

import pytest

from training.__main__ import COMMANDS

WITHOUT_MODELS = {"run", "toy-experiment"}
"""The first starts the others."""
ON_REQUEST = {"plan"}
"""With --measure."""


class SilencedError(Exception):
    """Raised in place of silencing."""


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_MODELS - ON_REQUEST))
def test_a_command_that_loads_models_silences_libraries_first(monkeypatch, name):
    module = importlib.import_module(COMMANDS[name][0], "training")
    command = getattr(module, "COMMAND", module)

    def silence() -> None:
        raise SilencedError

    monkeypatch.setattr(sys.modules[command.run.__module__], "silence_library_logs", silence)
    with pytest.raises(SilencedError):
        command.run(Namespace(folder=None))
