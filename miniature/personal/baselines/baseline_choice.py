"""Choose the settings of trained baselines on validation people.

    python -m miniature choose-baselines

Every combination of settings is a row of an evaluation (`training.evaluation`) of validation people with validation
prompts: it is generated and measured as held-out people are, and what is there is not made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from difflora_core.command_line import progress
from difflora_core.fields import read_json_file
from difflora_core.files import replacing
from miniature.paths import ROOT
from miniature.world.scenes import CLASS_WORD, VALIDATION_SCENES, caption
from training.engine.folder_lock import folder_lock
from training.engine.settings import read_settings
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.generation.image_workers import WorkerDevice, worker_devices
from training.evaluation.method_settings import MethodSettings
from training.evaluation.prompt_list import PERSON
from training.evaluation.settings import EvaluationSettings

from ..evaluation import SCRATCH_METHODS, SETTINGS, judge_source, missing_files, write_base, write_images
from ..teachers import teacher_people
from .baseline_grid import BASELINES, Baseline, Point
from .baseline_table import WITHOUT, Choice, best_of, lowest_fidelity, outcome_of, write_choices

FOLDER = ROOT / "output" / "miniature" / "baselines"


def evaluation_methods() -> dict[str, MethodSettings]:
    """Return the methods of the miniature's evaluation, with those whose files do not ship."""
    return {**read_settings(EvaluationSettings, SETTINGS).methods, **SCRATCH_METHODS}


def grids(baselines: Sequence[Baseline]) -> dict[Baseline, list[Point]]:
    """Return the points of each baseline whose files are there; the others are printed, with what makes their files."""
    methods, found = evaluation_methods(), {}
    for baseline in baselines:
        if missing := missing_files(methods[baseline.method]):
            print(
                f"{baseline.name} is left out: there is no {missing[0]}. Run `python -m miniature build "
                f"{baseline.stage}`, then this command again"
            )
        else:
            found[baseline] = list(baseline.points(methods[baseline.method]))
    return found


def prepare_validation(folder: Path, tokenizer: Path, people: int) -> None:
    """Write people/ and base/ of the first validation people, and the prompts, as far as they are not there.

    Args:
        folder: For all of it.
        tokenizer: Folder with SDXL's vocab.json and merges.txt.
        people: How many.

    Raises:
        ValueError: There are not so many.
    """
    validation = teacher_people("validation")
    if not 1 <= people <= len(validation):
        raise ValueError(f"settings are chosen on 1 to {len(validation)} validation people, found {people}")
    for index in progress(validation[:people], "validation people", "person"):
        write_images(folder, index)
    templates = [caption(scene).replace(CLASS_WORD, PERSON, 1) for scene in VALIDATION_SCENES]
    with replacing(folder / "prompts.yaml") as partial:
        partial.write_text("\n".join(["complex:", *(f"  - {template}" for template in templates), ""]), "utf-8")
    write_base(folder, tokenizer)


def settings_of(folder: Path, people: int, points: Sequence[Point]) -> EvaluationSettings:
    """Return the evaluation's settings, with validation people and prompts, and points as methods."""
    shipped = read_settings(EvaluationSettings, SETTINGS)
    methods = {WITHOUT: shipped.methods[WITHOUT]} | {point.name: point.settings for point in points}
    return replace(
        shipped,
        people=folder / "people",
        prompts=folder / "prompts.yaml",
        base=folder / "base",
        output=folder,
        methods=methods,
        max_people=people,
        compared_with=WITHOUT,
    )


def choose_baselines(tokenizer: Path, people: int, dry_run: bool = False, workers: int = 1) -> None:
    """Choose the settings of all baselines; where the table is, and what was chosen, is printed.

    Args:
        tokenizer: Folder with SDXL's vocab.json and merges.txt.
        people: How many validation people.
        dry_run: Only say what there is to do.
        workers: Processes that make images.

    Raises:
        ValueError: There are not so many.
        RuntimeError: A method failed.
    """
    devices = worker_devices("cpu", workers)
    found = grids(BASELINES)
    prepare_validation(FOLDER, tokenizer, people)
    settings = settings_of(FOLDER, people, [point for points in found.values() for point in points])
    with folder_lock(FOLDER):
        if dry_run:
            print(*Evaluation(settings, "cpu", [judge_source()]).describe(), sep="\n")
        else:
            print(*choose(settings, found, devices), sep="\n")


def choose(
    settings: EvaluationSettings, grid: Mapping[Baseline, Sequence[Point]], devices: Sequence[WorkerDevice] = ()
) -> list[str]:
    """Make what images are missing, measure them, choose, and write the table; return lines that say what was chosen.

    Args:
        settings: See `settings_of`.
        grid: Points of each baseline, all of them methods of the settings.
        devices: A process for each makes images; none: this process does.

    Raises:
        RuntimeError: A method failed.
    """
    report = Evaluation(settings, "cpu", [judge_source()]).run(devices).with_name("report.json")
    values = read_json_file(report)
    methods, choices = evaluation_methods(), []
    for baseline, points in grid.items():
        outcomes = [outcome_of(values, point) for point in points]
        present = (point.name for point in points if point.settings == methods[baseline.method])
        choices.append(Choice(baseline, next(present, None), outcomes, best_of(outcomes, lowest_fidelity(values))))
    return write_choices(settings.output, choices, values)
