"""What stands for the processes of a recipe's steps, in tests of what `run` does with them."""

from pathlib import Path

from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.pack_plan import split_of
from training.pilot.grid import TeacherSetting
from training.recipes import step_records
from training.recipes.pilot_command import write_choice
from training.recipes.planning.time_left import TimeLeft
from training.recipes.recipe import Recipe, read_recipe
from training.recipes.step_inputs import inputs_of

ALL = ["pilot", "dataset all", "train-lae", "finetune", "embed", "train-difflora", "finetune", "evaluate"]
AGAIN = ["dataset all", "embed", "evaluate"]
"""What finds out itself what has changed."""


def left() -> TimeLeft:
    return TimeLeft({}, "no card", 100)


class Commands:
    """Stands for the processes of the steps: notes them and writes what they would write."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = {str(step.settings) + step.command: step for step in recipe.steps}
        self.ran: list[str] = []
        self.failing = ""
        self.people = [name for name in map(str, range(100)) if split_of(name, 0.03, 0.03) == "test"]

    def __call__(self, command: list[str]) -> int:
        given = command[command.index("training") + 1 :]
        if given[0] == "pilot":
            return self.pilot(Path(given[1]))
        words = " ".join(given[: given.index("--config")])
        self.ran.append(words)
        if words == "dataset all":
            self.prepare_images(Path(command[-1]))
        for path in self.steps[command[-1] + words].files.writes:
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.write_bytes(b"weights")
        return int(words == self.failing)

    def prepare_images(self, dataset: Path) -> None:
        for name in self.people:
            Manifest(load_config(dataset).stage("preprocess")).write(Record(name))

    def pilot(self, folder: Path) -> int:
        """What `python -m training pilot` does in the end: it writes its choice, and notes that."""
        self.ran.append("pilot")
        if self.failing == "pilot":
            return 0
        recipe = read_recipe(str(folder))
        (step,) = (step for step in recipe.steps if step.command == "pilot")
        inputs = inputs_of(step)
        write_choice(recipe, TeacherSetting(3e-4, 200, False, 4))
        step_records.note_done(recipe, step, inputs, 7.0)
        return 0
