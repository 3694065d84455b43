"""What the LoRA dataset pipeline starts from, in the miniature: a folder per person with images and their captions.

python -m miniature prepare-dataset        # writes it for training/recipes/miniature/1_dataset.yaml
"""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from difflora_core.command_line import progress
from difflora_core.files import replacing
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.world.drawing import draw
from miniature.world.people import person, person_name
from miniature.world.scenes import TEACHER_SCENES, Scene, caption

PEOPLE = 8
"""Training people whom the example draws; it shows the pipeline, a full dataset has a thousand."""


def draw_person_folders(folder: Path, people: Iterable[int], scenes: Iterable[Scene] = TEACHER_SCENES) -> None:
    """Write folder/person_NNNNN/NN.png and NN.txt, its caption, unless they are there."""
    scenes = tuple(scenes)
    for index in progress(people, "drawing people", "person"):
        for number, scene in enumerate(scenes):
            path = folder / person_name(index) / f"{number:02d}.png"
            if not path.exists():
                with replacing(path) as partial:
                    path.with_suffix(".txt").write_text(caption(scene), encoding="utf-8")
                    Image.fromarray(draw(person(index), scene).image).save(partial, "PNG")


def prepare_dataset(build: Path, weights: Path, tokenizer: Path, people: int = PEOPLE) -> None:
    """Write what training/recipes/miniature/1_dataset.yaml names: images, and the base model as a diffusers folder."""
    draw_person_folders(build / "photographs", range(people))
    export_diffusers(weights, build / "diffusers", tokenizer)
