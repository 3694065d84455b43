"""What the trainers' commands have in common: a YAML file of settings, a dry run, and a lock on the output folder."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from difflora_core.command_line import silence_library_logs

from .engine.folder_lock import run_lock
from .engine.settings import read_settings


class TrainerSettings(Protocol):
    """What every trainer's settings have."""

    @property
    def output(self) -> Path:
        """Folder of the run and its result."""


SettingsT = TypeVar("SettingsT", bound=TrainerSettings)


@dataclass(frozen=True)
class TrainerCommand(Generic[SettingsT]):
    """A command of `python -m training` that trains as a YAML file says, or resumes."""

    settings: type[SettingsT]
    """Dataclass that the file is read into."""
    files: str
    """Pattern of the shipped files, for the help."""
    dry_run: Callable[[SettingsT], Iterable[str]]
    """Describes sizes, memory and speed, part by part, as soon as each is known."""
    train: Callable[[SettingsT], object]
    """Trains, while no other run writes to the output folder."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("--config", type=Path, required=True, help=f"a YAML file, see {self.files}")
        parser.add_argument("--dry-run", action="store_true", help="only print sizes, memory and measured speed")
        parser.set_defaults(run=self.run)

    def run(self, arguments: argparse.Namespace) -> None:
        """Run the command."""
        silence_library_logs()
        settings = read_settings(self.settings, arguments.config)
        if arguments.dry_run:
            for part in self.dry_run(settings):
                print(part, flush=True)
        else:
            with run_lock(settings.output):
                self.train(settings)
