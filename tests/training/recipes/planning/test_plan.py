"""What a recipe will cost: the table's arithmetic, and that it needs nothing but settings files."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.recipes.settings_text import replace_text
from training.end_to_end.settings import JointSettings
from training.engine.settings import read_settings
from training.recipes.planning.cards import Card, read_card
from training.recipes.planning.network_sizes import SDXL_UNET
from training.recipes.planning.plan import FITS, add_arguments, describe, make_plan, too_large, total
from training.recipes.planning.plan_row import PlanRow
from training.recipes.planning.scaling import GIB, dreambooth_figures, dreambooth_seconds
from training.recipes.recipe import FOLDER, SHIPPED, Recipe, read_recipe

ROOT = Path(__file__).parents[4]
SDXL = [name for name in SHIPPED if name.startswith("sdxl")]
TRAINERS = ("train-lae", "finetune (LAE)", "train-difflora", "finetune (MIF, DiT)")
FIXED = ("pilot", "verify", "train-teacher-free", "evaluate", *TRAINERS)
"""Whose work does not depend on the number of people."""


@pytest.fixture(scope="module")
def h100() -> Card:
    return read_card("h100")


def rows(recipe: Recipe, card: Card | None, people: int = 3000, gpus: int = 1) -> dict[str, PlanRow]:
    return {row.name: row for row in make_plan(recipe, people, gpus, card).rows}


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def test_torch_is_not_imported():
    program = (
        "import sys; sys.argv[1:] = ['plan', 'sdxl-24gb', '--price-per-hour', '2']; "
        "from training.__main__ import main; sys.exit(main() or 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert found.returncode == 0, found.stderr
    assert "2 dreambooth" in found.stdout


@pytest.mark.parametrize("name", SDXL)
def test_every_step_fits_the_recipe_s_gpus(h100, name):
    recipe = read_recipe(name)
    plan = make_plan(recipe, 3000, recipe.gpus, h100)
    assert not too_large(plan)
    known = {row.name for row in plan.rows if row.memory is not None}
    own = {"pilot", "dreambooth", "verify", *TRAINERS}
    assert known == {"generate", "preprocess", "embed", "evaluate"} | (
        {"train-teacher-free"} if "free" in name else own
    )


def test_a_step_that_does_not_fit_is_named(h100, tmp_path):
    folder = copied("sdxl-24gb", tmp_path)
    replace_text(folder / "1_dataset.yaml", "gradient_checkpointing: true", "gradient_checkpointing: false")
    pilot, line = too_large(make_plan(read_recipe(str(folder)), 3000, 1, h100))
    assert line == f"2 dreambooth does not fit: 57.8 GiB of 24, of which {FITS:.0%} can be used"
    assert pilot.startswith("1 pilot does not fit")


def test_dreambooth_by_hand(h100, tmp_path):
    folder = copied("sdxl-24gb", tmp_path)
    replace_text(folder / "1_dataset.yaml", "gradient_checkpointing: true", "gradient_checkpointing: false")
    row = rows(read_recipe(str(folder)), h100)["dreambooth"]
    assert row.seconds == pytest.approx(3000 * 400 * 0.036)  # 12.0 hours
    assert row.disk == 3000 * 4 * 5_806_080
    assert row.memory == pytest.approx((53.8 + 4.0) * GIB)
    assert row.note.startswith("3,000 people × 400 steps × 36 ms in batches of 16, measured")


def test_a_pilot_by_hand(h100):
    found = rows(read_recipe("sdxl-24gb"), h100)
    few = rows(read_recipe("sdxl-24gb"), h100, people=8)
    row, settings, steps = found["pilot"], 3 * 3, 3 * (100 + 200 + 400)
    assert row.note.startswith("9 settings: 8 people × 2100 steps × 92 ms in batches of 8, measured")
    prepared = sum(few[stage].seconds for stage in ("collect", "generate", "filter", "preprocess"))
    images = (settings + 1) * few["verify"].seconds / 2  # verify generates with a LoRA and without
    assert row.seconds == pytest.approx(8 * steps * 0.092 + images + prepared, rel=0.01)
    assert row.images == (settings + 1) * 8 * 4
    assert rows(read_recipe("sdxl-24gb"), h100, gpus=4)["pilot"].seconds == row.seconds, "a pilot runs on one GPU"


def test_an_evaluation_by_hand(h100):
    row = rows(read_recipe("sdxl-24gb"), h100)["evaluate"]
    decode = 5.75e12 * (1024 / 768) ** 2 / 78.2e12
    assert row.images == 30 * (2 * 50 + 2), "without a LoRA and with the mean of all, everybody has the same images"
    assert row.seconds == pytest.approx(row.images * (30 * 0.04325 + decode))
    assert row.disk == 4 * 50 * 30 * 1024**2 * 1.5
    assert row.note.startswith("4 methods, 50 people, 30 images of each; 30 steps × 43.2 ms an image, measured step")
    assert row.note.endswith("without LoRAs beside the weights, metrics")
    few = rows(read_recipe("sdxl-24gb"), h100, people=1000)["evaluate"]
    assert few.images == 30 * (2 * 30 + 2), "3 % of 1,000 people are kept from training"
    four = rows(read_recipe("sdxl-24gb"), h100, gpus=4)["evaluate"]
    assert four.images == 30 * (2 * 50 + 2 * 4), "what is the same for everybody each GPU makes once"
    assert four.seconds == pytest.approx(row.seconds * four.images / row.images / 4), "all GPUs make images"


def test_methods_of_an_evaluation_that_train_or_are_made_elsewhere(h100, tmp_path):
    folder = copied("sdxl-24gb-teacher-free", tmp_path)
    before = rows(read_recipe(str(folder)), h100)["evaluate"]
    more = "  theirs: {kind: images, path: images}\n  DreamBooth: {kind: dreambooth, training: {steps: 100}}\n"
    replace_text(folder / "3_evaluate.yaml", "  DiffLoRA:\n", f"{more}  DiffLoRA:\n")
    row = rows(read_recipe(str(folder)), h100)["evaluate"]
    assert row.images == before.images + 30 * 50
    alone = dreambooth_seconds(dreambooth_figures(h100, 1024, True), 1, 1024)
    generating = before.seconds * row.images / before.images
    assert row.seconds == pytest.approx(generating + 50 * 100 * alone)
    assert row.note.endswith("without LoRAs beside the weights, metrics, theirs")
    token = "  token: {kind: textual_inversion}\n"
    replace_text(folder / "3_evaluate.yaml", "  DiffLoRA:\n", f"{token}  DiffLoRA:\n    refinement: {{}}\n")
    row = rows(read_recipe(str(folder)), h100)["evaluate"]
    assert row.note.endswith("metrics, the training of token, the refinement of DiffLoRA, theirs")
    replace_text(folder / "3_evaluate.yaml", "dataset: 1_dataset.yaml ", "people: people ")
    replace_text(folder / "3_evaluate.yaml", "max_people: 50\n", "")
    row = rows(read_recipe(str(folder)), h100)["evaluate"]
    assert (row.images, row.seconds, row.note) == (
        None,
        None,
        "how many people there are is not known: set max_people",
    )


def test_generate_by_hand(h100):
    row = rows(read_recipe("sdxl-24gb"), h100)["generate"]
    assert row.images == 72_000
    decode = 5.75e12 * (1024 / 768) ** 2 / 78.2e12
    assert row.seconds == pytest.approx(72_000 * (30 * 0.04325 + decode))
    assert row.disk == 72_000 * 1024**2 * 1.5


def test_one_image_of_1024_pixels_through_the_vae_fits_24_gb(h100, tmp_path):
    folder = copied("sdxl-24gb", tmp_path)
    dataset = folder / "1_dataset.yaml"
    replace_text(dataset, "size: 768 ", "size: 1024 ")
    for batch, gib in {1: 10.9, 2: 15.2, 3: 19.5, 4: 23.8}.items():
        text = re.sub(r"batch: \d+ +# the VAE", f"batch: {batch} # the VAE", dataset.read_text("utf-8"))
        dataset.write_text(text, "utf-8")
        plan = make_plan(read_recipe(str(folder)), 3000, 1, h100)
        found = {row.title: row.memory for row in plan.rows}
        assert found["2 preprocess"] == pytest.approx(gib * GIB, rel=0.005)
        assert found["2 verify"] < 13.2 * GIB, "images are decoded one by one"
        assert ("2 preprocess does not fit" in "".join(too_large(plan))) == (batch == 4)


@pytest.mark.parametrize("name", SDXL)
def test_twice_as_many_people_take_the_dataset_twice_as_long(h100, name):
    recipe = read_recipe(name)
    once, twice = rows(recipe, h100), rows(recipe, h100, people=6000)
    for step, row in once.items():
        if row.seconds is not None:
            factor = 1 if step in FIXED else 2
            assert twice[step].seconds == pytest.approx(factor * row.seconds), step


def test_without_teachers_by_hand(h100):
    recipe = read_recipe("sdxl-24gb-teacher-free")
    found = rows(recipe, h100)
    assert not {"dreambooth", "pack", "verify", "pilot"} & found.keys()
    row, settings = found["train-teacher-free"], read_settings(JointSettings, recipe.steps[2].settings)
    loop, people = settings.training.loop, settings.training.people
    unet = dreambooth_seconds(dreambooth_figures(h100, 768, True), people, 768)
    assert row.note.startswith(f"{loop.steps:,} steps of {people * loop.accumulate} × ")
    assert loop.steps * loop.accumulate * unet < row.seconds < 3 * loop.steps * loop.accumulate * unet


def test_more_gpus_share_the_dataset_and_not_the_trainers(h100):
    recipe = read_recipe("sdxl-24gb")
    one, four = rows(recipe, h100), rows(recipe, h100, gpus=4)
    for step, factor in {"generate": 4, "dreambooth": 4, "filter": 1, "embed": 1, "train-difflora": 1}.items():
        assert four[step].seconds == pytest.approx(one[step].seconds / factor), step
    assert four["train-difflora"].note.startswith("50,000 steps of 256 ×"), "a step has four times the samples"


def test_measured_memory_is_said_to_be(h100):
    found = rows(read_recipe("sdxl-24gb"), h100)
    peaks = {"train-lae": 17.3, "finetune (LAE)": 22.4, "train-difflora": 10.4, "finetune (MIF, DiT)": 16.8}
    for step, gib in peaks.items():
        assert found[step].memory == pytest.approx(gib * GIB)
        assert found[step].note.endswith("memory measured")


def test_arithmetic_is_no_less_than_the_measured_peaks(h100):
    recipe = read_recipe("sdxl-24gb")
    counted = rows(recipe, Card(h100.title, dreambooth=h100.dreambooth))
    for step, row in rows(recipe, h100).items():
        if step in TRAINERS:
            assert row.memory <= counted[step].memory < 1.5 * row.memory


def test_another_card_is_scaled_by_its_rate(capsys, h100):
    run("sdxl-24gb", "--tflops", "391")
    shown = capsys.readouterr().out
    assert "a card of 391 TFLOP/s, with the times of NVIDIA H100 80GB × 2" in shown
    assert re.search(r"dreambooth .* 37\.33  3,000 people × 400 steps × 112 ms", shown)
    assert "The hours are those of" not in shown
    assert "Nothing was measured on such a card: all times, those called measured, too, are NVIDIA H100 80GB's" in shown
    assert "Measured on NVIDIA H100 80GB (a slow host" in shown


@pytest.mark.parametrize(("recipe", "said"), [("sdxl-24gb", True), ("sdxl-80gb", False), ("miniature", False)])
def test_hours_of_a_larger_card_are_said_to_be_such(capsys, recipe, said):
    run(recipe)
    line = "The hours are those of NVIDIA H100 80GB. A card of 24 GB takes longer: --tflops RATE"
    assert (line in capsys.readouterr().out) == said


def test_a_card_s_file_leaves_out_what_was_not_measured(tmp_path, capsys):
    card = tmp_path / "mine.yaml"
    figures = "[{size: 768, gradient_checkpointing: true, people: 16, ms: 100}]"
    card.write_text(f"title: mine\ndreambooth: {{measured: today, figures: {figures}}}\n", encoding="utf-8")
    run("sdxl-24gb", "--gpu", str(card))
    lines = capsys.readouterr().out.splitlines()
    assert any("dreambooth" in line and " 33.33 " in line for line in lines)
    assert any(line.startswith("total") and "hours without collect, generate" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h1000"], "there are no figures of a card h1000: known are cpu, h100"),
        (["--people", "0"], "--people is 0, expected a number above 0"),
        (["--price-per-hour", "nan"], "--price-per-hour is nan, expected"),
        (["--gpu", "cpu"], "were measured with the miniature, the base model of"),
    ],
)
def test_impossible_options(words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("sdxl-24gb", *words)


def test_the_miniature_on_a_cpu(capsys):
    run("miniature", "--people", "300")
    shown = capsys.readouterr().out
    assert shown.startswith("the miniature on a CPU: 300 people, a CPU (")
    assert "GiB" not in shown


def test_the_same_without_teachers_is_told_beside(capsys, h100):
    run("sdxl-24gb")
    last = capsys.readouterr().out.splitlines()[-1]
    hours = total(make_plan(read_recipe("sdxl-24gb-teacher-free"), 3000, 1, h100).rows).seconds / 3600
    assert last.startswith(f"Without a LoRA of anybody: {hours:.2f} hours and ")
    assert last.endswith("by the recipe sdxl-24gb-teacher-free.")
    run("sdxl-24gb-teacher-free")
    assert "Without" not in capsys.readouterr().out


def test_prices_are_of_all_gpus(h100):
    recipe = read_recipe("sdxl-4x24gb")
    plan = make_plan(recipe, 3000, 4, h100)
    assert "price" not in describe(plan).splitlines()[2]
    shown = describe(plan, 2.5).splitlines()
    last = next(line.split() for line in shown if line.startswith("total"))
    hours, price = float(last[6]), float(last[7])
    assert price == pytest.approx(hours * 4 * 2.5, abs=0.06)


def copied(name: str, folder: Path) -> Path:
    """A copy of a recipe to be changed."""
    return shutil.copytree(FOLDER / name, folder / name)


def test_sdxl_s_own_configuration_is_sdxl_s(h100, tmp_path):
    """A recipe may name it, in place of leaving it out."""
    folder = shutil.copytree(FOLDER / "sdxl-24gb", tmp_path / "mine")
    (folder / "unet.json").write_text(json.dumps(SDXL_UNET | {"in_channels": 4}), "utf-8")
    settings = folder / "2_train_lae.yaml"
    settings.write_text(settings.read_text("utf-8").replace("layout: {", "layout: {unet: unet.json, "), "utf-8")
    assert rows(read_recipe(str(folder)), h100) == rows(read_recipe("sdxl-24gb"), h100)
    (folder / "unet.json").write_text(json.dumps(SDXL_UNET | {"cross_attention_dim": 768}), "utf-8")
    with pytest.raises(ValueError, match=r"measured with SDXL, the base model of .* is another: give a file"):
        rows(read_recipe(str(folder)), h100)
    (folder / "unet.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"layout\.unet, .*unet\.json, is no configuration of a U-Net"):
        rows(read_recipe(str(folder)), h100)
