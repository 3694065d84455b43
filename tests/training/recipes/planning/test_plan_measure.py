"""`plan --measure`, with the miniature's base model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.training.recipes.settings_text import replace_text
from training.recipes.planning.cards import Card, read_card
from training.recipes.planning.plan import make_plan
from training.recipes.planning.plan_measure import measure_card
from training.recipes.recipe import FOLDER, read_recipe


@pytest.fixture
def recipe_folder(tmp_path: Path, sdxl_folder: Path) -> Path:
    """A copy of the miniature's recipe with a base model of its own, and small batches."""
    folder = shutil.copytree(FOLDER / "miniature", tmp_path / "recipe")
    base = shutil.copytree(sdxl_folder, tmp_path / "base")
    replace_text(
        folder / "1_dataset.yaml", "base: ../../../miniature/build/diffusers", f"base: {json.dumps(str(base))}"
    )
    replace_text(folder / "1_dataset.yaml", "  people: 16\n", "  people: 2\n")
    unet = json.dumps(str(base / "unet" / "config.json"))
    replace_text(
        folder / "2_train_lae.yaml", "unet: ../../../miniature/build/diffusers/unet/config.json", f"unet: {unet}"
    )
    return folder


def test_what_is_measured_replaces_the_card_s_figures(recipe_folder):
    torch.set_num_threads(1)
    recipe = read_recipe(str(recipe_folder))
    card = measure_card(recipe, read_card("h100"))
    assert (card.sdxl, card.encoders) == (False, None), "figures of another base model were kept"
    assert [(figure.people, figure.size) for figure in card.dreambooth.figures] == [(8, 128)]
    rows = {row.name: row for row in make_plan(recipe, 10, 0, card).rows}
    for step in ("dreambooth", "train-lae", "train-difflora"):
        assert rows[step].seconds > 0
        assert "measured" in rows[step].note
    assert rows["finetune (LAE)"].seconds > 0
    assert rows["dreambooth"].seconds == pytest.approx(10 * 80 * 4 * card.dreambooth.figures[0].ms / 1000)


def test_missing_inputs_are_all_named(recipe_folder):
    shutil.rmtree(recipe_folder.parent / "base")
    with pytest.raises(FileNotFoundError, match=r"base \(1_dataset.yaml: base\); .*\(2_train_lae.yaml: layout.unet\)"):
        measure_card(read_recipe(str(recipe_folder)), Card("none"))
