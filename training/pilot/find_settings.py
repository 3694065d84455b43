"""The whole pilot: prepare people, train and measure the grid, report, choose."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from difflora_core.command_line import choose_device
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.configured_base import open_configured_base
from training.lora_dataset.fingerprints import hash_face_models, hash_files
from training.lora_dataset.images.faces import open_faces

from .choice import Choice, choose
from .grid import TeacherSetting
from .pilot_people import prepare_people
from .pilot_report import REPORT, SHEET, PilotReport
from .prompt_similarity import PromptSimilarity
from .setting_measures import Measurer
from .setting_run import SettingRun


def find_settings(
    title: str,
    config: DatasetConfig,
    grid: Sequence[TeacherSetting],
    folder: Path,
    people: int,
    total_people: int,
    measuring_pack: str | None = None,
    clip: Path | None = None,
) -> Choice:
    """Train and measure every setting of a grid, as far as that is not done, and choose one; the table is printed.

    Args:
        title: Of the recipe.
        config: Of its dataset.
        grid: The settings.
        folder: Of everything that is written.
        people: How many are trained.
        total_people: For whom hours are computed.
        measuring_pack: A face pack in `faces.root` for likeness alone; None is the dataset's own.
        clip: Folder of a CLIP model of text and vision; None is without.

    Raises:
        FileNotFoundError: A model or the source of images is not there.
        ValueError: There is nobody to train.
        RuntimeError: No setting is better than no LoRA.
    """
    device = choose_device(None)
    faces = replace(config.faces, pack=measuring_pack or config.faces.pack)
    encoder = open_faces(faces)
    prompts = PromptSimilarity.open(clip, str(device)) if clip else None
    place, names = prepare_people(config, folder, people, str(device))
    if len(names) < people:
        print(f"{len(names)} people, not {people}: the source has no more with enough images")
    measurer = Measurer.open(place, open_configured_base(place, str(device)), encoder, prompts, names)
    clip_files = sorted(path for path in clip.iterdir() if path.is_file()) if clip else []
    measured_by = {"face models": hash_face_models(faces), "clip": hash_files(clip_files) if clip else ""}
    run = SettingRun(folder / "settings", measurer, measured_by)
    without, outcomes = run.run_all(grid)
    choice = choose(outcomes, without)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    report = PilotReport(title, name, faces.pack, names, total_people, without, outcomes, choice)
    report.write(run, folder)
    print(f"{report.table()}\n{folder / REPORT}, {folder / SHEET}")
    if faces.pack == config.faces.pack:
        print(
            f"likeness is measured by {faces.pack}, which also selects the training images: it flatters. "
            "--measuring-pack names another pack"
        )
    print(f"chosen: {choice.chosen}; the best: {choice.best}")
    return choice
