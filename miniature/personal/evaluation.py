"""The miniature's evaluation: held-out people, teachers and base model as `python -m training evaluate` takes them.

python -m miniature prepare-evaluation     # writes output/miniature/evaluation
python -m miniature evaluate               # the same, then evaluates, with the attribute judge among the metrics

Methods and metrics whose files do not ship take part where `python -m miniature build` has made these files.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difflora_core.command_line import progress
from difflora_core.images import write_image
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.measure.attribute_fidelity import COLUMN, AttributeFidelity, scene_of
from miniature.measure.judge import FILE as JUDGE
from miniature.measure.metric_models.stage import MODELS
from miniature.paths import BUILD, DIFFLORA_CHECKPOINT, ROOT, WEIGHTS
from miniature.world.drawing import draw, draw_references
from miniature.world.people import person, person_name, split_people
from miniature.world.scenes import Scene, random_scene
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.generation.image_workers import worker_devices
from training.evaluation.method_settings import MethodSettings
from training.evaluation.metric_list import MetricSource
from training.evaluation.people_folders import OTHERS, REFERENCES
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import DistanceSettings, EvaluationSettings, MetricSettings
from training.lora_dataset.fingerprints import hash_file

from .held_out_teachers import HeldOutTeachers
from .ship_held_out import NEAREST

FOLDER = ROOT / "output" / "miniature" / "evaluation"
SETTINGS = ROOT / "training" / "evaluation" / "configs" / "miniature.yaml"
JUDGE_CODE = ROOT / "miniature" / "measure"
OTHER_IMAGES = 8
"""Images of each person that no method sees."""
REFERENCE_SEED = 1
"""Of the references' scenes: that of the published figures' first seed."""

_TEACHERS, _CONDITIONS, _FACES = BUILD / "teachers", BUILD / "conditions", WEIGHTS / "insightface"
SCRATCH_METHODS = {
    "nearest teacher": MethodSettings("lora", BUILD / NEAREST),
    "mean LoRA": MethodSettings("mean_lora", _TEACHERS),
    "ridge regression": MethodSettings(
        "ridge",
        DIFFLORA_CHECKPOINT,
        stores=(_TEACHERS,),
        embeddings=(_CONDITIONS / "train.safetensors", _CONDITIONS / "validation.safetensors"),
    ),
    "PhotoMaker v1": MethodSettings(
        "photomaker",
        BUILD / "photomaker" / "miniature.bin",
        face_models=_FACES,
        face_pack="miniature",
        style_strength=20,
    ),
    "InstantID": MethodSettings(
        "instantid", BUILD / "instantid" / "miniature", face_models=_FACES, face_pack="miniature", control_scale=0.4
    ),
}
"""By name, methods whose files do not ship."""
SCRATCH_METRICS = {name: BUILD / MODELS / name for name in ("clip", "dino", "image_reward", "pick_score")}
"""By setting, networks of metrics that do not ship."""
REAL_PEOPLE = split_people("train")[:50]
"""Their drawings of each prompt are what distances are measured to: twice as many people as are held out."""


def prepare_evaluation(folder: Path, tokenizer: Path, people: Sequence[int] | None = None) -> None:
    """Write people/, teachers/ and base/ of held-out people, as far as they are not there.

    Args:
        folder: For all of it.
        tokenizer: Folder with SDXL's vocab.json and merges.txt.
        people: Indices of held-out people with a shipped teacher; None: all.

    Raises:
        FileNotFoundError: A shipped file is missing.
    """
    held_out = HeldOutTeachers.load()
    for index in progress(held_out.people if people is None else people, "held-out people", "person"):
        write_images(folder, index)
        teacher = folder / "teachers" / f"{person_name(index)}.safetensors"
        if not teacher.exists():
            held_out.write(index, teacher)
    write_base(folder, tokenizer)


def write_images(folder: Path, index: int) -> None:
    """Write people/NAME/ of a person, references and other images, as far as they are not there."""
    place = folder / "people" / person_name(index)
    references = draw_references(index, np.random.default_rng([REFERENCE_SEED, index]))
    # No teacher was trained on these scenes
    scenes = [random_scene(np.random.default_rng([79, number])) for number in range(OTHER_IMAGES)]
    others = [draw(person(index), scene).image for scene in scenes]
    for part, images in ((REFERENCES, references), (OTHERS, others)):
        for number, image in enumerate(images):
            path = place / part / f"{number:02d}.png"
            if not path.exists():
                write_image(path, Image.fromarray(image))


def write_base(folder: Path, tokenizer: Path) -> None:
    """Write base/, the miniature's base model, if it is not there."""
    if not (folder / "base").exists():
        export_diffusers(WEIGHTS, folder / "base", tokenizer)


def built_methods() -> dict[str, MethodSettings]:
    """Return the methods whose scratch files are there; the others are printed."""
    built = {}
    for name, method in SCRATCH_METHODS.items():
        if missing := missing_files(method):
            print(f"{name} is left out: there is no {missing[0]}, which `python -m miniature build` makes")
        else:
            built[name] = method
    return built


def built_metrics(metrics: MetricSettings, drawings: Path) -> MetricSettings:
    """Add the metrics whose networks are there; the others are printed.

    Args:
        metrics: Those of the shipped settings.
        drawings: Folder of `write_drawings`.
    """
    found = {name: str(folder) for name, folder in SCRATCH_METRICS.items() if folder.is_dir()}
    for name, folder in SCRATCH_METRICS.items():
        if name not in found:
            print(f"metrics.{name} is left out: there is no {folder}, which `python -m miniature build metrics` makes")
    settings = replace(
        metrics,
        clip=(found["clip"],) if "clip" in found else (),
        dino=found.get("dino"),
        image_reward=found.get("image_reward"),
        pick_score=found.get("pick_score"),
    )
    if settings.dino is None:
        return settings
    name = f"drawings of {len(REAL_PEOPLE)} training people"
    return replace(settings, distances=DistanceSettings(drawings, name, dino=True))


def write_drawings(folder: Path, prompts: Sequence[str], people: Sequence[int] = REAL_PEOPLE) -> None:
    """Draw training people as prompts say, NAME/NUMBER.png, as far as they are not there.

    Args:
        folder: For all of them.
        prompts: In the words that the judge knows.
        people: Indices of people.
    """
    for index in progress(people, "drawings", "person"):
        for number, prompt in enumerate(prompts):
            path = folder / person_name(index) / f"{number:02d}.png"
            if not path.exists():
                scene = framed(scene_of(prompt), np.random.default_rng([80, index, number]))
                write_image(path, Image.fromarray(draw(person(index), scene).image))


def framed(scene: Scene, rng: np.random.Generator) -> Scene:
    """Frame a scene as training images are: position, size and turn of the head are random."""
    while (drawn := random_scene(rng)).pose != scene.pose:
        pass
    words: dict[str, Any] = {name: value for name, value in asdict(scene).items() if isinstance(value, str)}
    return replace(drawn, **words)


def missing_files(method: MethodSettings) -> list[Path]:
    """Return which of a method's files and folders are not there."""
    return [path for path in (method.path, *method.stores, *method.embeddings) if path and not path.exists()]


def judge_source() -> MetricSource:
    """Return the attribute judge as a metric."""
    return MetricSource(COLUMN, AttributeFidelity, lambda: {"model": hash_file(WEIGHTS / JUDGE)}, JUDGE_CODE)


def evaluate(
    tokenizer: Path, people: int | None = None, dry_run: bool = False, keep: bool = False, workers: int = 1
) -> None:
    """Evaluate held-out people by configs/miniature.yaml; the path of the report is printed.

    Args:
        tokenizer: Folder with SDXL's vocab.json and merges.txt.
        people: How many; None: all.
        dry_run: Only say what there is to do.
        keep: Keep images that were made with other settings.
        workers: Processes that make images.
    """
    devices = worker_devices("cpu", workers)
    prepare_evaluation(FOLDER, tokenizer)
    shipped = read_settings(EvaluationSettings, SETTINGS)
    methods, metrics = {**shipped.methods, **built_methods()}, built_metrics(shipped.metrics, FOLDER / "drawings")
    if metrics.distances is not None:
        prompts = [prompt.of(shipped.class_word) for prompt in read_prompt_list(shipped.prompts)]
        write_drawings(metrics.distances.reference, prompts)
    settings = replace(shipped, max_people=people, methods=methods, metrics=metrics)
    with folder_lock(settings.output):
        evaluation = Evaluation(settings, "cpu", [judge_source()], keep)
        print(*(evaluation.describe() if dry_run else [evaluation.run(devices)]), sep="\n")
