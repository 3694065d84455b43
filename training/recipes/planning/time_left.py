"""How long a recipe still takes: the plan's times, corrected by how long the steps took that are done."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest
from training.recipes.recipe import Recipe

from .cards import Card, read_card
from .plan import CPU, GPU, PEOPLE, make_plan
from .plan_row import situation


@dataclass(frozen=True)
class TimeLeft:
    """The plan's times of a recipe's steps."""

    planned: Mapping[str, float | None]
    """Seconds by step; None where the plan has no figure."""
    card: str | None
    """Whose figures they are; None if there are none of the recipe's base model."""
    people: int
    """Of the dataset, for whom it is planned."""

    @classmethod
    def of(cls, recipe: Recipe, people: int | None, card: str | None) -> Self:
        """Plan a recipe.

        Args:
            recipe: Which one.
            people: Of the dataset; None is as many as are collected, or before that the plan's default.
            card: By name or file; None is the plan's default, if its figures are of the recipe's base model.

        Raises:
            FileNotFoundError: There is no such card.
            ValueError: The card's file can't be read, or is of another base model.
        """
        figures: Card | None = read_card(card or (GPU if recipe.gpus else CPU))
        if card is None and figures and figures.sdxl != situation(recipe, 1, recipe.gpus, None).sdxl:
            figures = None
        counted = people or _collected(recipe) or PEOPLE
        plan = make_plan(recipe, counted, recipe.gpus, figures)
        planned: dict[str, float | None] = {}
        for number, step in enumerate(recipe.steps, start=1):
            rows = [row.seconds for row in plan.rows if row.step == number]
            known = [seconds for seconds in rows if seconds is not None]
            planned[step.name] = sum(known) if known else None
        return cls(planned, figures.title if figures else None, counted)

    def describe(self, seconds: Mapping[str, float]) -> str:
        """Say in one line how long the steps that are left will take.

        Args:
            seconds: How long the steps took that are done, by step; 0 for one that was not run.
        """
        left = [planned for name, planned in self.planned.items() if name not in seconds]
        if not left:
            return "no further step is left"
        if self.card is None:
            return (
                f"left: {len(left)} steps; there are no figures of this base model from which to say how long they take"
            )
        basis, factor = f"for {self.people:,} people by the figures of {self.card}", 1.0
        if done := {name: planned for name, planned in self.planned.items() if seconds.get(name) and planned}:
            factor = sum(seconds[name] for name in done) / sum(done.values())
            basis += f", times {factor:.2g} (taken over planned time of the steps that are done)"
        unknown = sum(planned is None for planned in left)
        more = f"; without {unknown} of the {len(left)} steps, of which there are no figures" if unknown else ""
        total = datetime.timedelta(seconds=round(factor * sum(planned for planned in left if planned)))
        return f"left: about {total} {basis}{more}"


def _collected(recipe: Recipe) -> int:
    datasets = [step.settings for step in recipe.steps if step.is_dataset]
    return sum(len(Manifest(load_config(path).stage("collect")).done()) for path in datasets)
