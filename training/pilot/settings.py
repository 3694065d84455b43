"""What a pilot tries, and on whom: a recipe's 0_pilot.yaml, or the options of `python -m training pilot`."""

from dataclasses import dataclass

from difflora_core.fields import PositiveFloat, PositiveInt, check_fields
from training.dreambooth.config import DreamBoothConfig
from training.engine.settings import SettingsPath

from .grid import TeacherSetting, make_grid


@dataclass(frozen=True)
class PilotSettings:
    """Every combination of learning rates, steps, targets and ranks is trained and measured."""

    dataset: SettingsPath
    """The dataset's settings file, into whose section `dreambooth` the choice is written."""
    people: PositiveInt = 8
    """Who are trained."""
    learning_rates: tuple[PositiveFloat, ...] | None = None
    """None: 0.1, 0.3 and 1 times the configured one."""
    steps: tuple[PositiveInt, ...] | None = None
    """None: a quarter, a half and all of the configured ones."""
    feed_forward: tuple[bool, ...] = (False, True)
    """Whether feed-forward layers have a LoRA, beside the attention layers."""
    ranks: tuple[PositiveInt, ...] | None = None
    """None: once and twice the configured one."""
    total_people: PositiveInt = 3000
    """For whom hours are computed."""
    measuring_pack: str | None = None
    """A face pack in `faces.root` for likeness alone; None is the dataset's own."""
    clip: SettingsPath | None = None
    """Folder of a CLIP model of text and vision; None is without CLIP-T."""

    def __post_init__(self) -> None:
        check_fields(self)

    def grid(self, config: DreamBoothConfig) -> list[TeacherSetting]:
        """Return every combination; see `make_grid`."""
        return make_grid(config, self.learning_rates, self.steps, self.feed_forward, self.ranks)
