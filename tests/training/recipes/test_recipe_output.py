"""An output folder holds the results of one recipe."""

import shutil

import pytest

from training.recipes import run
from training.recipes.recipe import read_recipe
from training.recipes.recipe_output import claim_output

from .step_commands import ALL, left


def test_a_copy_does_not_go_on_with_another_recipe_s_results(recipe, commands):
    run.run_recipe(recipe, left)
    original = recipe.steps[0].settings.parent
    copied = read_recipe(str(shutil.copytree(original, original.with_name("second"))))
    with pytest.raises(ValueError, match=rf"sdxl-24gb holds the results of the recipe {original}, and .*second names"):
        run.run_recipe(copied, left)
    assert commands.ran == ALL
    shutil.rmtree(original)  # as after it was renamed
    claim_output(copied)


def test_a_recipe_of_another_s_settings_files_is_another_recipe(recipe, commands):
    """Only its `recipe.yaml` is its own; all outputs are the first recipe's."""
    run.run_recipe(recipe, left)
    own = recipe.folder.with_name("second")
    own.mkdir()
    text = (
        (recipe.folder / "recipe.yaml").read_text("utf-8").replace("  - {command: pilot, settings: 0_pilot.yaml}\n", "")
    )
    (own / "recipe.yaml").write_text(text.replace("settings: ", f"settings: {recipe.folder}/"), "utf-8")
    with pytest.raises(ValueError, match=rf"holds the results of the recipe {recipe.folder}, and {own} names"):
        run.run_recipe(read_recipe(str(own)), left)
    assert commands.ran == ALL


def test_a_copy_whose_trainings_write_among_another_recipe_s_results(recipe, commands):
    """The output folder was changed in recipe.yaml alone."""
    run.run_recipe(recipe, left)
    copied = shutil.copytree(recipe.folder, recipe.folder.with_name("second"))
    text = (copied / "recipe.yaml").read_text("utf-8")
    (copied / "recipe.yaml").write_text(text.replace("output/sdxl-24gb", "output/second"), "utf-8")
    with pytest.raises(ValueError, match=rf"output.sdxl-24gb holds the results of the recipe {recipe.folder}, and"):
        claim_output(read_recipe(str(copied)))
