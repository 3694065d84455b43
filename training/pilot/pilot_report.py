"""What a pilot found: a table as text, pilot.json and the contact sheet."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from difflora_core.files import replacing
from difflora_core.images import read_image
from training.lora_dataset.stages.preprocess import crop_square

from .choice import KEPT_GAIN, TOLERANCE, Choice, lacking_likeness, seconds_per_person
from .grid import TeacherSetting
from .pilot_people import kept_out_files
from .setting_measures import Measures
from .setting_run import WITHOUT, Outcome, SettingRun
from .settings_sheet import image_column, write_sheet

SHEET, REPORT = "sheet.png", "pilot.json"
NOT_MEASURED = "not measured"
HEADER = (
    "learning rate",
    "steps",
    "targets",
    "rank",
    "likeness",
    "lacks",
    "held-out loss",
    "CLIP-T",
    "s/person",
    "hours",
)


@dataclass(frozen=True)
class PilotReport:
    """Everything that was found."""

    recipe: str
    """Its title."""
    device: str
    """On which it was trained."""
    face_pack: str
    """By which likeness was measured."""
    people: Sequence[str]
    """Who was trained."""
    total_people: int
    """For whom hours are computed."""
    without: Measures
    """Without any LoRA."""
    outcomes: Sequence[Outcome]
    """Of all settings."""
    choice: Choice
    """Of the settings."""

    def hours(self, seconds: float) -> float:
        """Return the hours of all people's training on one such device, from the seconds of one person's."""
        return seconds * self.total_people / 3600

    def loss(self, measures: Measures) -> float:
        """Return the held-out loss as a share of that without any LoRA."""
        return measures.loss / self.without.loss

    def table(self) -> str:
        """Return the table as lines of text; the choice is marked."""
        seconds = seconds_per_person(self.outcomes)
        best = self._best()
        rows = [HEADER, ("without a LoRA", "", "", "", *self._measures(self.without, best), "", "")]
        for outcome in self.outcomes:
            setting, measures = outcome.setting, outcome.measures
            own = (f"{setting.learning_rate:g}", str(setting.steps), setting.targets, str(setting.rank))
            found = self._measures(measures, best) if measures else (f"failed: {outcome.failed}", "", "", "")
            cost = seconds[setting]
            rows.append((*own, *found, f"{cost:.3g}", f"{self.hours(cost):.3g}{self._mark(setting)}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes()])

    def _best(self) -> Measures:
        """Return the measures of the best setting."""
        return next(o.measures for o in self.outcomes if o.measures is not None and o.setting == self.choice.best)

    def _mark(self, setting: TeacherSetting) -> str:
        if setting == self.choice.chosen:
            return " <- chosen"
        return " (passed over)" if setting in self.choice.passed_over else ""

    def _measures(self, measures: Measures, best: Measures) -> tuple[str, ...]:
        prompts = NOT_MEASURED if measures.prompt_similarity is None else f"{measures.prompt_similarity:.4f}"
        lack, error = lacking_likeness(measures, best)
        return f"{measures.likeness:.4f}", f"{lack:.4f} ± {error:.4f}", f"{self.loss(measures):.4f}", prompts

    def notes(self) -> list[str]:
        """Return what the columns mean, a line each."""
        lines = [
            f"likeness: mean cosine of generated faces with the kept-out images of {len(self.people)} people, by the "
            f"face pack {self.face_pack}; held-out loss: as a share of that without a LoRA",
            f"lacks: of the best setting's likeness, ± a standard error over people; as good as the best is what lacks "
            f"no more than {TOLERANCE:.0%} of it, or than the standard error",
            f"hours: for {self.total_people} people on one {self.device}, trained as these",
        ]
        if self.choice.edges:
            lines.append(f"the best setting has {' and '.join(self.choice.edges)} of the grid: try values beyond it")
        if self.choice.passed_over:
            lines.append(
                f"passed over: these lower the held-out loss less than {KEPT_GAIN:g} times as much as the one that "
                "does most; their LoRAs have learned too little, or repeat their training images"
            )
        if self.loss(self._best()) >= 1:
            lines.append(
                f"no setting lowers the held-out loss, so likeness alone has decided: the teachers may repeat their "
                f"training images; look at {SHEET}"
            )
        return lines

    def values(self) -> dict[str, Any]:
        """Return the content of pilot.json."""
        seconds = seconds_per_person(self.outcomes)
        settings = [
            {
                **asdict(outcome.setting),
                "seconds_per_person": seconds[outcome.setting],
                "measured_seconds_per_person": outcome.seconds,
                "hours": self.hours(seconds[outcome.setting]),
                "failed": outcome.failed,
                "measures": None if outcome.measures is None else asdict(outcome.measures),
                "relative_loss": None if outcome.measures is None else self.loss(outcome.measures),
            }
            for outcome in self.outcomes
        ]
        return {
            "recipe": self.recipe,
            "device": self.device,
            "face_pack": self.face_pack,
            "people": list(self.people),
            "total_people": self.total_people,
            "without": asdict(self.without),
            "settings": settings,
            "choice": asdict(self.choice),
        }

    def write(self, run: SettingRun, folder: Path) -> None:
        """Write pilot.json and the contact sheet."""
        with replacing(folder / REPORT) as partial:
            partial.write_text(json.dumps(self.values(), indent=1), "utf-8")
        columns = [(["kept out of", "training"], _kept_out_column(run))]
        columns.append((["without a LoRA", _likeness(self.without)], _column(run, WITHOUT)))
        marked = None
        for outcome in self.outcomes:
            if outcome.measures:
                if outcome.setting == self.choice.chosen:
                    marked = len(columns)
                columns.append((_label(outcome.setting, outcome.measures), _column(run, outcome.setting.name)))
        write_sheet(folder / SHEET, self.people, columns, marked)


def _label(setting: TeacherSetting, measures: Measures) -> list[str]:
    layers = "attention + ff" if setting.feed_forward else "attention"
    steps = f"rate {setting.learning_rate:g}, {setting.steps} steps"
    return [steps, f"{layers}, rank {setting.rank}", _likeness(measures)]


def _likeness(measures: Measures) -> str:
    return f"likeness {measures.likeness:.3f}"


def _column(run: SettingRun, name: str) -> Image.Image:
    """Read a column of the sheet; of many people it is narrower than `read_image` allows."""
    with Image.open(run.folder / f"{name}.png") as column:
        return column.convert("RGB")


def _kept_out_column(run: SettingRun) -> Image.Image:
    """Return the first kept-out image of each person, its center square."""
    config = run.measurer.config
    files = [kept_out_files(config, person)[0] for person in run.measurer.people]
    return image_column([crop_square(read_image(file), config.preprocess.size) for file in files])
