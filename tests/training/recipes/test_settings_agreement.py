"""Settings of several steps that contradict each other are refused before anything is run."""

import shutil
from pathlib import Path

import pytest

from tests.training.recipes.settings_text import replace_text
from training.recipes.recipe import FOLDER, read_recipe


def changed(tmp_path: Path, name: str, file: str, old: str, new: str) -> str:
    """Copy a recipe and replace a text in one of its files; return the copy."""
    copied = shutil.copytree(FOLDER / name, tmp_path / "a" / "b" / "mine")
    replace_text(copied / file, old, new)
    return str(copied)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("1_dataset.yaml", "rank: 4", "rank: 8", r"2_train_lae.yaml: layout.rank is 4, but dreambooth.rank of .* is 8"),
        ("2_train_lae.yaml", "feed_forward: true", "feed_forward: false", "layout.feed_forward is False, .* is True"),
        (
            "4_train_difflora.yaml",
            "face: miniature",
            "face: buffalo_l",
            r"encoders are buffalo_l and miniature, but the images are embedded by miniature \(faces.pack",
        ),
        ("1_dataset.yaml", "held_out: 2", "held_out: 0", "3_finetune_lae.yaml: dataset is .* preprocess.held_out is 0"),
        (
            "1_dataset.yaml",
            "validation: 0.25",
            "validation: 0.0",
            "2_train_lae.yaml: validation people are needed, but",
        ),
        (
            "1_dataset.yaml",
            "validation: 0.25",
            "validation: 0.9",
            "2_train_lae.yaml: people to train on are needed, but pack.validation and pack.test of .* are 1 together",
        ),
        ("5_finetune_difflora.yaml", "\nembeddings: ", "\n# ", "5_finetune_difflora.yaml: network is .* names none"),
        (
            "5_finetune_difflora.yaml",
            "difflora_finetuned",
            "lae_finetuned",
            "5_finetune_difflora.yaml: output is .*lae_finetuned, as in .*3_finetune_lae.yaml",
        ),
        (
            "recipe.yaml",
            "  - {command: evaluate",
            "  - {command: finetune, settings: 5_finetune_difflora.yaml}\n  - {command: evaluate",
            r"steps: 5_finetune_difflora \(finetune\) stands there twice",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path, file, old, new, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(changed(tmp_path, "miniature", file, old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("1_dataset.yaml", "validation: 0.25", "validation: 0.0", "2_train_teacher_free.yaml: validation people are"),
        ("1_dataset.yaml", "held_out: 2", "held_out: 0", "embeddings.dataset is .* preprocess.held_out is 0"),
        ("2_train_teacher_free.yaml", "image: miniature", "image: clip", "encoders are miniature and clip, but"),
    ],
)
def test_contradictions_without_teachers_are_refused(tmp_path, file, old, new, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(changed(tmp_path, "miniature-teacher-free", file, old, new))


def test_whoever_is_in_a_store_keeps_the_split(tmp_path):
    """So the share may be changed afterwards."""
    folder = changed(tmp_path, "miniature", "1_dataset.yaml", "validation: 0.25", "validation: 0.0")
    store = tmp_path / "output" / "miniature" / "dataset" / "store"
    store.mkdir(parents=True)
    (store / "layout.json").touch()
    assert read_recipe(folder).steps
