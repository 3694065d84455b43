"""A recipe: a folder with `recipe.yaml`, the order of its steps, and the settings files of the steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from difflora_core.fields import NonNegativeFloat, NonNegativeInt, check_fields
from training.engine.settings import SettingsPath, read_settings

from .settings_agreement import SETTINGS, check_agreement
from .step_files import StepFiles, step_files

FOLDER = Path(__file__).parent
FILE = "recipe.yaml"
SHIPPED = (
    "miniature",
    "miniature-teacher-free",
    "sdxl-24gb",
    "sdxl-24gb-teacher-free",
    "sdxl-4x24gb",
    "sdxl-80gb",
    "sdxl-80gb-teacher-free",
)
"""Recipes that come with the project, whose files are changed only on demand. Copies beside them are the user's."""
Command = Literal[
    "pilot",
    "dataset all",
    "dataset images",
    "train-lae",
    "finetune",
    "embed",
    "train-difflora",
    "train-teacher-free",
    "evaluate",
]

TRAINERS = tuple(SETTINGS)
"""Commands that run on all GPUs as processes of one launcher; those of the dataset find the GPUs themselves."""


@dataclass(frozen=True)
class Step:
    """One command with its settings file."""

    command: Command
    """Words after `python -m training`."""
    settings: SettingsPath
    """The YAML file."""

    @property
    def is_dataset(self) -> bool:
        """Whether it runs stages of the dataset, with teachers or without."""
        return self.command in ("dataset all", "dataset images")

    @property
    def finds_changes(self) -> bool:
        """Whether its command itself finds what has changed since it was done, and does only that again."""
        return self.is_dataset or self.command in ("embed", "evaluate")

    @property
    def name(self) -> str:
        """Its settings file and command, as tables and messages name it."""
        return f"{self.settings.stem} ({self.command})"

    @cached_property
    def files(self) -> StepFiles:
        """What the step reads and writes by its settings, which are read once.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It can't be read.
        """
        return step_files(self.command, self.settings)


@dataclass(frozen=True)
class Recipe:
    """All steps in order, and the hardware that their settings are made for."""

    title: str
    """One line."""
    output: SettingsPath
    """Folder of what `run` notes: which steps are done."""
    steps: tuple[Step, ...]
    """In order."""
    gpus: NonNegativeInt = 1
    """Of one machine; the trainers run on all of them. 0 is a CPU."""
    gpu_memory_gb: NonNegativeFloat = 0
    """Of each GPU."""
    folder: Path = field(default=Path(), init=False)
    """Of `recipe.yaml`, which `read_recipe` notes."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.steps:
            raise ValueError("steps is empty, expected commands with their settings files")
        if any(step.command == "pilot" for step in self.steps[1:]):
            raise ValueError("steps: the pilot has to be the first step, since it writes settings that the others read")
        names = [step.name for step in self.steps]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"steps: {twice} stands there twice, and what is done is noted by name: rename one's file")


def read_recipe(name: str) -> Recipe:
    """Read a recipe and check that its steps chain.

    Args:
        name: Of a shipped recipe, or a folder.

    Raises:
        FileNotFoundError: There is none, or a settings file is missing.
        ValueError: A file can't be read, a step reads what no earlier step writes, two steps write into one folder,
            settings of several steps contradict each other, or a pilot is another recipe's.
    """
    folder = Path(name) if (Path(name) / FILE).is_file() else FOLDER / name
    if not (folder / FILE).is_file():
        raise FileNotFoundError(
            f"there is no recipe {name}: it is a folder with {FILE}, or one of {', '.join(named_recipes())}"
        )
    recipe = read_settings(Recipe, folder / FILE)
    object.__setattr__(recipe, "folder", folder.resolve())  # the dataclass is frozen
    check_chain(recipe.steps)
    check_agreement([(step.command, step.settings) for step in recipe.steps])
    if (pilot := pilot_step(recipe)) is not None and pilot.settings.parent != recipe.folder:
        raise ValueError(f"{folder / FILE}: the pilot's {pilot.settings} has to be in the recipe's own folder")
    return recipe


def named_recipes() -> list[str]:
    """Names of the recipes in this package's folder: those that come with the project, and copies of them."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{FILE}"))


def comes_with_the_project(settings: Path) -> bool:
    """Whether a settings file is one of a recipe in `SHIPPED`."""
    return any(settings.resolve().is_relative_to((FOLDER / name).resolve()) for name in SHIPPED)


def pilot_step(recipe: Recipe) -> Step | None:
    """Return the recipe's pilot; None if it has none."""
    return recipe.steps[0] if recipe.steps[0].command == "pilot" else None


def dataset_step(recipe: Recipe) -> Step:
    """Return the step that makes the dataset, with teachers or without.

    Raises:
        ValueError: The recipe has none, or several.
    """
    found = [step for step in recipe.steps if step.is_dataset]
    if len(found) != 1:
        raise ValueError(f"{recipe.title}: {len(found)} steps are `dataset all` or `dataset images`, expected one")
    return found[0]


def teacher_step(recipe: Recipe) -> Step:
    """Return the step that trains the teachers.

    Raises:
        ValueError: The recipe trains none.
    """
    step = dataset_step(recipe)
    if step.command != "dataset all":
        raise ValueError(f"{recipe.title}: the recipe trains no teachers; take one with the step `dataset all`")
    return step


def check_chain(steps: Sequence[Step]) -> None:
    """Check that what each step reads of others is what an earlier step writes, and that trainers have own folders.

    Raises:
        ValueError: Names the first step and setting of which that is not so, and what is written before.
    """
    written: list[Path] = []
    outputs: dict[Path, Step] = {}
    for step in steps:
        files = step.files
        if step.command in TRAINERS:
            (result,) = files.writes
            if (other := outputs.setdefault(result.parent, step)) is not step:
                raise ValueError(
                    f"{step.settings}: output is {result.parent}, as in {other.settings}: one training would go on "
                    "with what the other has made. Choose another folder"
                )
        for setting, path in files.reads.items():
            if path not in written and not path.is_file():
                before = ", ".join(map(str, written)) or "nothing"
                raise ValueError(
                    f"{step.settings}: {setting} is {path}, which no earlier step writes; written before are {before}"
                )
        written += (*files.writes, *files.imports)


def missing_inputs(steps: Sequence[Step]) -> list[str]:
    """List the user's own files and folders that are not there, each with its settings file and setting."""
    written: list[Path] = []
    missing = []
    for step in steps:
        given = {name: path for name, path in step.files.given.items() if not _is_among(path, written)}
        needed = {**step.files.own, **given}
        missing += [f"{path} ({step.settings.name}: {name})" for name, path in needed.items() if not path.exists()]
        written += step.files.writes
    return missing


def _is_among(path: Path, places: Sequence[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)
