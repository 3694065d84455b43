"""The table and the figure of `benchmarks.teacher_count`."""

import json
from collections.abc import Iterator
from pathlib import Path

from training.engine.charts import Line, Panel

RESULTS = "teacher_count"
"""In the scratch folder of the miniature's build: a folder for each run."""
TEACHERS = (0, 16, 63, 252, 1008)
NONE = 8
"""Where no teachers stand on the logarithmic axis."""
PEOPLE_PER_STEP = 16
STEPS = (200, 500, 1000, 2000, 4000, 6000, 12000)
"""Marked on the logarithmic axis."""
RECOVERY = (0.0, 1.8)
SIMILARITY = (0.7, 0.95)


def results(build: Path) -> list[dict]:
    """Read the results of all runs that are finished."""
    paths = sorted((build / RESULTS).glob("*/result.json"))
    return [json.loads(path.read_text("utf-8")) for path in paths]


def table(found: list[dict]) -> str:
    """Format results in lines.

    The best recovery is the highest of a run's evaluations, by which its weights were chosen: on the people it is of,
    it is a little too high.
    """
    head = ("teachers", "people", "images", "steps", "penalty", "seed", "minutes", "best recovery")
    lines = [
        "".join(f"{name:>{max(9, len(name) + 2)}}" for name in head) + "  face similarity / prompt fidelity by sampling"
    ]
    for result in found:
        run, minutes = result["run"], result["core_seconds"] / 60
        best = max(metrics["teacher_recovery"] for metrics in result["history"].values())
        counts = [run[name] for name in ("teachers", "people", "images", "steps", "lora_penalty", "seed")]
        images = [f"{name} {m['similarity']:.3f} / {m['fidelity']:.3f}" for name, m in result["images"].items()]
        numbers = [*map(str, counts), f"{minutes:.1f}", f"{best:.3f}"]
        cells = [f"{number:>{max(9, len(name) + 2)}}" for name, number in zip(head, numbers, strict=True)]
        lines.append("".join(cells) + "  " + ", ".join(images))
    return "\n".join(lines)


def curve(found: list[dict]) -> Panel:
    """Face similarity by number of teachers: mean and range over the seeds, a line for each number of steps."""
    lines = []
    for color, steps in enumerate(sorted({result["run"]["steps"] for result in found})):
        of_steps = [result for result in found if result["run"]["steps"] == steps]
        lines.append(Line(f"{steps:,} steps", color, False, list(_points(of_steps))))
    ticks = {max(teachers, NONE): f"{teachers:,}" if teachers else "none" for teachers in TEACHERS}
    return Panel("face similarity", "teachers that the LAE starts from", lines, ticks, True, SIMILARITY)


def progress(found: list[dict]) -> Panel:
    """Teacher recovery while training: mean and range over the seeds, a line for each number of teachers and steps."""
    lines = []
    kinds = sorted({(result["run"]["teachers"], result["run"]["steps"]) for result in found})
    for color, kind in enumerate(kinds):
        runs = [result for result in found if (result["run"]["teachers"], result["run"]["steps"]) == kind]
        histories, points = [result["history"] for result in runs], []
        for step in sorted(set.intersection(*({int(step) for step in history} for history in histories)) - {0}):
            values = [history[str(step)]["teacher_recovery"] for history in histories]
            points.append((step, sum(values) / len(values), min(values), max(values)))
        teachers, steps = kind
        lines.append(
            Line(f"{format(teachers, ',') if teachers else 'no'} teachers, {steps:,} steps", color, False, points)
        )
    ticks = {step: f"{step:,}" for step in STEPS}
    return Panel("teacher recovery", f"steps of {PEOPLE_PER_STEP} people", lines, ticks, True, RECOVERY)


def _points(found: list[dict]) -> Iterator[tuple[float, float, float, float]]:
    for teachers in TEACHERS:
        values = [result["images"]["plain"]["similarity"] for result in found if result["run"]["teachers"] == teachers]
        if values:
            yield max(teachers, NONE), sum(values) / len(values), min(values), max(values)
