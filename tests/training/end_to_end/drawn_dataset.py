"""A dataset of drawn people on the miniature's base model, prepared as the stages before the training leave it."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import TEACHER_SCENES, caption
from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.stages.preprocess import PREPROCESS


def write_drawn_dataset(folder: Path, base: Path, people: Iterable[int], more: str) -> Path:
    """Preprocess three images of each person, of which one is held out; return the dataset's settings file.

    Args:
        folder: Of the settings file and the workspace.
        base: The base model, SDXL's folder.
        people: Of the drawn world.
        more: Further lines of the settings file.
    """
    settings = folder / "dataset.yaml"
    settings.write_text(f"workspace: work\nbase: {base}\npreprocess: {{size: 128, held_out: 1}}\n{more}")
    config = load_config(settings)
    for index in people:
        images = []
        for place, scene in enumerate(TEACHER_SCENES[:3]):
            path = config.workspace / "generate" / f"{index}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person(index), scene).image).save(path)
            images.append({"file": path.relative_to(config.workspace).as_posix(), "caption": caption(scene)})
        Manifest(config.stage("generate")).write(Record(f"{index}", facts={"images": images}))
        Manifest(config.stage("filter")).write(Record(f"{index}", facts={"kept": images}))
    run_stage(PREPROCESS, config)
    return settings
