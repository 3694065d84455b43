"""What the LoRA weight pipeline starts from, in the miniature: a folder per person, with pictures and their captions.

python -m miniature prepare-dataset        writes it for training/configs/miniature.yaml
"""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from miniature.world.drawing import draw
from miniature.world.image_blocks import TEACHER_PICTURES
from miniature.world.people import Scene, caption, person

from .teachers import teacher_scene

SCENES = tuple(teacher_scene(number) for number in range(TEACHER_PICTURES))
PEOPLE = range(8)
"""Training people whom the example set-up draws; it shows the road, a full store takes a thousand."""


def photograph(folder: Path, people: Iterable[int], scenes: Iterable[Scene] = SCENES) -> None:
    """Write folder/person_NNNNN/NN.png and NN.txt, its caption, unless they are there."""
    scenes = tuple(scenes)
    for index in people:
        home = folder / f"person_{index:05d}"
        home.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes):
            path = home / f"{number:02d}.png"
            if not path.exists():
                path.with_suffix(".txt").write_text(caption(scene), encoding="utf-8")
                partial = path.with_suffix(".partial")
                Image.fromarray(draw(person(index), scene).image).save(partial, "PNG")
                partial.replace(path)


def prepare_dataset(build: Path, weights: Path, tokenizer: Path) -> None:
    """Everything that training/configs/miniature.yaml names: pictures, the base model as a diffusers folder."""
    from miniature.base_model.checkpoint import NAME
    from miniature.base_model.diffusers_folder import export_diffusers

    photograph(build / "photographs", PEOPLE)
    if not (build / "diffusers").exists():
        export_diffusers(weights / "checkpoints" / NAME, build / "diffusers", tokenizer)
