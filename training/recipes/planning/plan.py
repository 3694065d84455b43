"""`python -m training plan`: what a recipe will cost, before anything of it is there.

It needs no model, no store, no GPU and no torch. Measured figures of a card (`cards/`) are scaled by arithmetic
(`scaling`); each row says what its figures rest on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from difflora_core.command_line import silence_library_logs
from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import FinetuneSettings, JointSettings
from training.engine.format import format_bytes
from training.engine.settings import read_section, read_settings
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.stage_registry import IMAGE_STAGES, ORDER
from training.people.config import EmbeddingSettings
from training.pilot.settings import PilotSettings
from training.recipes.recipe import SHIPPED, Recipe, Step, read_recipe

from .cards import Card, read_card, scale_card
from .plan_dataset import dataset_rows, embed_row
from .plan_evaluation import evaluation_row
from .plan_pilot import pilot_row
from .plan_row import PlanRow, Situation, situation
from .plan_trainers import difflora_row, finetune_row, joint_row, lae_row
from .scaling import GIB, RESERVE

PEOPLE, GPU, CPU = 3000, "h100", "cpu"
"""By default; cards are in `cards/`."""
FITS = 0.95
"""Share of a GPU's memory that a step may take; CUDA's own context and fragments need the rest."""
UNKNOWN = "–"
WITHOUT_TEACHERS = "-teacher-free"
"""Ending of the names of recipes that train no teachers."""
STAGES_BY_COMMAND = {"dataset all": ORDER, "dataset images": IMAGE_STAGES}
"""Stages by the command of a step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", help="the name of a recipe that comes with the project, or a folder")
    parser.add_argument("--people", type=int, default=PEOPLE, help="of the dataset (default: %(default)s)")
    parser.add_argument("--gpus", type=int, help="that share the work (default: the recipe's)")
    parser.add_argument(
        "--gpu",
        help=f"a card by name, or a YAML file of its figures (default: {GPU}, where the recipe is for a CPU {CPU})",
    )
    parser.add_argument("--tflops", type=float, help="rate of bf16 matrix products; the hours are scaled to it")
    parser.add_argument("--price-per-hour", type=float, help="of one GPU, in any currency")
    parser.add_argument(
        "--measure", action="store_true", help="measure on this machine first, with the recipe's models"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: A number is out of range.
    """
    for name in ("people", "gpus", "tflops", "price_per_hour"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1e9:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}, expected a number above 0")
    recipe = read_recipe(arguments.recipe)
    gpus = recipe.gpus if arguments.gpus is None else arguments.gpus
    card = choose_card(arguments.gpu, arguments.tflops, gpus)
    if arguments.measure:
        from .plan_measure import measure_card  # torch takes seconds to import

        silence_library_logs()
        card = measure_card(recipe, card)
    print(describe(make_plan(recipe, arguments.people, gpus, card), arguments.price_per_hour))
    if other := describe_without_teachers(arguments.recipe, arguments.people, gpus, card):
        print(f"\n{other}")


def describe_without_teachers(name: str, people: int, gpus: int, card: Card) -> str:
    """Say in a line what the recipe that does the same without teachers would cost, if there is one; else "".

    Args:
        name: Of the recipe.
        people: Of the dataset.
        gpus: That share the work.
        card: Whose figures are used.
    """
    other = f"{name}{WITHOUT_TEACHERS}"
    if other not in SHIPPED:
        return ""
    rows = make_plan(read_recipe(other), people, gpus, card).rows
    hours, disk = (total(rows).seconds or 0) / 3600, format_bytes(total(rows).disk or 0)
    return f"Without a LoRA of anybody: {hours:.2f} hours and {disk} by the recipe {other}."


def choose_card(name: str | None, tflops: float | None, gpus: int) -> Card:
    """Return the figures of a card, without a name of H100 or CPU, perhaps scaled.

    Raises:
        FileNotFoundError: There is no such card.
        ValueError: Its file can't be read, or can't be scaled.
    """
    card = read_card(name or (GPU if gpus else CPU))
    return scale_card(card, tflops) if tflops else card


@dataclass(frozen=True)
class Plan:
    """What all steps of a recipe will cost."""

    recipe: Recipe
    """Whose steps."""
    situation: Situation
    """People, GPUs, card."""
    rows: tuple[PlanRow, ...]
    """In order."""


def make_plan(recipe: Recipe, people: int, gpus: int, card: Card | None) -> Plan:
    """Compute every step's cost.

    Raises:
        FileNotFoundError: A settings file is missing.
        ValueError: It can't be read, or the card's figures are of another base model.
    """
    at = situation(recipe, people, gpus, card)
    if card is not None and card.sdxl != at.sdxl:
        measured, found = ("SDXL", "another") if card.sdxl else ("the miniature", "SDXL")
        raise ValueError(
            f"the figures of {card.title} were measured with {measured}, the base model of {recipe.title!r} is "
            f"{found}: give a file of its figures with --gpu, or see what `plan --measure` measures here"
        )
    rows = []
    for number, step in enumerate(recipe.steps, start=1):
        rows += [replace(row, step=number) for row in _rows(step, at)]
    return Plan(recipe, at, tuple(rows))


def _rows(step: Step, at: Situation) -> list[PlanRow]:
    if step.command == "pilot":
        return [pilot_row(read_settings(PilotSettings, step.settings), at)]
    if step.command in STAGES_BY_COMMAND:
        return dataset_rows(load_config(step.settings), at, STAGES_BY_COMMAND[step.command])
    if step.command == "train-lae":
        return [lae_row(read_settings(LAESettings, step.settings), at)]
    if step.command == "finetune":
        return [finetune_row(read_settings(FinetuneSettings, step.settings), at)]
    if step.command == "train-difflora":
        return [difflora_row(read_settings(DiffLoRASettings, step.settings), at)]
    if step.command == "train-teacher-free":
        return [joint_row(read_settings(JointSettings, step.settings), at)]
    if step.command == "evaluate":
        return [evaluation_row(read_settings(EvaluationSettings, step.settings), at)]
    return [embed_row(_embedded(read_section(EmbeddingSettings, step.settings, "embeddings")), at)]


def _embedded(embeddings: EmbeddingSettings) -> DatasetConfig:
    assert embeddings.dataset is not None  # `step_files.embed_files` has checked it
    return load_config(embeddings.dataset)


def describe(plan: Plan, price_per_hour: float | None = None) -> str:
    """Format a plan: a table, the total, what doesn't fit, and the assumptions."""
    at, rows = plan.situation, plan.rows
    cells = [_cells(row, at, price_per_hour) for row in (*rows, total(rows))]
    head = ("step", "images", "disk", "GPU memory", "hours", "price", "rests on")
    shown = [i for i, name in enumerate(head) if name != "price" or price_per_hour]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]

    def line(values: Sequence[str]) -> str:
        first, last = values[0].ljust(widths[0]), values[-1]
        return "  ".join([first, *(values[i].rjust(widths[i]) for i in shown[1:-1]), last]).rstrip()

    table = [line(head), *map(line, cells[:-1]), line(cells[-1])]
    title = f"{plan.recipe.title}: {at.people:,} people, {_hardware(at)}"
    return "\n".join([title, "", *table, "", *too_large(plan), *larger_card(plan), *assumptions(at)])


def _hardware(at: Situation) -> str:
    card = at.card.title if at.card else "no figures"
    return f"{at.gpus} × {card}" if at.gpus else f"a CPU ({card})"


def _cells(row: PlanRow, at: Situation, price_per_hour: float | None) -> tuple[str, ...]:
    hours = None if row.seconds is None else row.seconds / 3600
    return (
        row.title,
        UNKNOWN if row.images is None else f"{row.images:,}",
        UNKNOWN if row.disk is None else format_bytes(row.disk),
        UNKNOWN if row.memory is None else f"{row.memory / GIB:.1f} GiB",
        UNKNOWN if hours is None else f"{hours:.2f}",
        UNKNOWN if hours is None else f"{hours * at.processes * (price_per_hour or 0):,.2f}",
        row.note,
    )


def total(rows: Sequence[PlanRow]) -> PlanRow:
    """Add up disk and hours, and take the most memory; what is not known is left out, which the note says."""
    disk = sum(row.disk for row in rows if row.disk is not None)
    memory = max((row.memory for row in rows if row.memory is not None), default=None)
    known = [row.seconds for row in rows if row.seconds is not None]
    unknown = [row.name for row in rows if row.seconds is None]
    note = f"hours without {', '.join(unknown)}" if unknown else ""
    return PlanRow("total", None, disk, memory, sum(known) if known else None, note)


def too_large(plan: Plan) -> list[str]:
    """Name the steps whose memory the recipe's GPUs, or the card, don't have."""
    own = plan.situation.card.memory_gb if plan.situation.card else 0.0
    available = min((size for size in (plan.recipe.gpu_memory_gb, own) if size), default=0.0)
    limit = FITS * available * GIB
    return [
        f"{row.title} does not fit: {row.memory / GIB:.1f} GiB of {available:g}, of which {FITS:.0%} can be used"
        for row in plan.rows
        if limit and row.memory is not None and row.memory > limit
    ]


def larger_card(plan: Plan) -> list[str]:
    """Say that the hours are those of a larger card than the recipe is made for, or were scaled from another one's."""
    card, own = plan.situation.card, plan.recipe.gpu_memory_gb
    if card is not None and card.times_of:
        return [
            f"Nothing was measured on such a card: all times, those called measured, too, are {card.times_of}'s, "
            "scaled by the rate of matrix products alone; steps that memory or the host limit scale otherwise."
        ]
    if card is None or not 0 < own < FITS * card.memory_gb:
        return []
    return [
        f"The hours are those of {card.title}. A card of {own:g} GB takes longer: --tflops RATE scales the hours to "
        "its rate of bf16 matrix products, in TFLOP/s."
    ]


def assumptions(at: Situation) -> list[str]:
    """Say in a few lines what all figures rest on."""
    lines = ["Everybody and every image is counted as if the filter kept it."]
    if at.gpus:
        lines += [
            "Several GPUs share the people of generate, preprocess, dreambooth and verify; other stages don't.",
            "Trainers take as many optimizer steps on more GPUs, with more samples in each: their hours stay the same.",
            f"Memory by arithmetic is {RESERVE:g} × (parameters × (4 weights + 4 gradients + 8 AdamW + 4 EMA + 2 as "
            "bf16), activations, frozen networks).",
        ]
    lines.append("Not counted: evaluations, a trainer's start, reading from disk; patience may end a run earlier.")
    return lines + (sources(at.card) if at.card else ["There are no figures of this machine; --measure measures some."])


def sources(card: Card) -> list[str]:
    """Say with what a card's figures were measured, a line for each section."""
    sections = {
        "matrix products": card.matrix_products,
        "dreambooth": card.dreambooth,
        "guided step": card.guided_step,
        "encoders": card.encoders,
        "training of a DiT": card.dit_training,
        "sampling by a DiT": card.dit_sampling,
        "optimizer": card.optimizer,
    }
    lines = [f"  {name}: {section.measured}" for name, section in sections.items() if section]
    return [f"Measured on {card.times_of or card.title} (a slow host makes times longer):", *lines]
