"""What a pilot will cost: a few people through the dataset's stages, and a training for each setting of its grid."""

from dataclasses import replace

from training.lora_dataset.config import load_config
from training.lora_dataset.stage_registry import IMAGE_STAGES
from training.pilot.settings import PilotSettings

from .network_sizes import lora_size
from .plan_dataset import STAGES
from .plan_row import PlanRow, Situation, add, times

FLOAT16_BYTES = 2


def pilot_row(settings: PilotSettings, at: Situation) -> PlanRow:
    """Return the row of `pilot`, by the rows of the dataset's stages with the pilot's people on one GPU."""
    config = load_config(settings.dataset)
    people, grid = settings.people, settings.grid(config.dreambooth)
    batch, steps = min(people, config.dreambooth.people), sum(setting.steps for setting in grid)
    few = replace(at, people=people, gpus=min(1, at.gpus))
    own = replace(
        config,
        dreambooth=replace(config.dreambooth, people=batch, steps=steps),
        verify=replace(config.verify, people=people),
    )
    rows = {name: STAGES[name](own, few) for name in (*IMAGE_STAGES, "dreambooth", "verify")}
    trained, verified = rows["dreambooth"], rows["verify"]
    measured = times((len(grid) + 1) / 2, verified.seconds)  # verify generates twice: with a LoRA and without
    beside = add(measured, *(rows[name].seconds for name in IMAGE_STAGES))
    note = f"{len(grid)} settings: {trained.note.split('; memory')[0]}"
    if trained.seconds is not None:
        note += "; with its images and measures" if beside is not None else "; without its images and measures"
    return PlanRow(
        "pilot",
        (len(grid) + 1) * people * config.verify.images,
        add(_lora_bytes(settings, at), *(rows[name].disk for name in IMAGE_STAGES)),
        max((row.memory for row in rows.values() if row.memory is not None), default=None),
        None if trained.seconds is None else trained.seconds + (beside or 0.0),
        note,
    )


def _lora_bytes(settings: PilotSettings, at: Situation) -> float | None:
    """Bytes of all LoRAs; None where the base model is not SDXL."""
    if not at.sdxl:
        return None
    grid = settings.grid(load_config(settings.dataset).dreambooth)
    return FLOAT16_BYTES * settings.people * sum(lora_size(point.rank, point.feed_forward).values for point in grid)
