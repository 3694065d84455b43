"""report.md: a table for each metric, with intervals and differences."""

import math
from collections.abc import Iterable, Iterator, Sequence

from ..metrics.cosines import OTHERS
from ..metrics.metric import Better
from ..prompt_list import PromptsByKind
from ..results import MetricResult
from ..statistics import CONFIDENCE, Interval
from .evaluation_report import EvaluationReport, versions

ARROWS: dict[Better, str] = {"higher": " ↑", "lower": " ↓", "neither": ""}
NONE = "–"
FEW = 10
"""People below which a bootstrap says little."""


def report_markdown(report: EvaluationReport, sheets: Sequence[tuple[str, str]]) -> str:
    """Write the report.

    Args:
        report: What was found.
        sheets: Of each contact sheet a title and the file, relative to the report.
    """
    parts = ["# Evaluation", *_introduction(report), *_summary(report)]
    for result in report.metrics:
        parts += _metric_part(result, report)
    if report.sets.values:
        parts += _sets_part(report)
    if any(result.kinds for result in report.metrics):
        parts += ["## By kind of prompt", "Means over people, first column of each metric.", *_kind_tables(report)]
    parts += _costs_part(report)
    parts += ["## Methods", _listed(f"**{name}**: {text}" for name, text in report.placements.items())]
    parts += ["## Prompts", "\n".join(f"{p.number}. {p.template} ({p.kind})" for p in report.prompts)]
    if report.remarks:
        parts += ["## Remarks", _listed(report.remarks)]
    if report.not_measured:
        parts += ["## Not measured", _listed(report.not_measured)]
    for title, file in sheets:
        parts += [f"## {title}", f"![{title}]({file})"]
    return "\n\n".join(parts) + "\n"


def _introduction(report: EvaluationReport) -> list[str]:
    settings, people = report.settings, report.people
    seeds = f"{len(settings.seeds)} seed{'s' * (len(settings.seeds) != 1)}"
    what = f"{len(people)} people × {len(report.prompts)} prompts × {seeds} × {len(report.methods)} methods."
    sampler = settings.sampler or "the base model's own sampler"
    how = (
        f"Base model {settings.base.name}, {settings.size} px, {sampler}, {settings.steps} steps, guidance "
        f"{settings.guidance_scale:g}, {settings.dtype}, on {report.device}; the same noise for all people and methods."
    )
    intervals = (
        f"Values are means over people, in brackets {CONFIDENCE:.0%} bootstrap intervals (BCa) over people, not over "
        f"images. Differences are to {settings.baseline}, person by person; bold where the interval does not hold 0. "
        "Cosines are raw. Values of other papers are measured with other people, prompts and models: never compare."
    )
    if len(people) < FEW:
        intervals += (
            f" Of {len(people)} people, fewer than {FEW}, intervals are too narrow: conclude nothing from them."
        )
    return [what, how, intervals, ", ".join(f"{name} {found}" for name, found in versions().items()) + "."]


def _summary(report: EvaluationReport) -> list[str]:
    """A table of the first column of each metric, and of likeness to images that methods were not given."""
    chosen = [
        (result, column)
        for result in report.metrics
        for number, (column, better) in enumerate(result.columns.items())
        if better != "neither" and (number == 0 or column.endswith(f", {OTHERS}"))
    ]
    if not chosen:
        return []
    best = {column: _best(result, column) for result, column in chosen}
    rows = []
    for method in report.methods:
        means = [(column, result.comparisons[column][method].value.mean) for result, column in chosen]
        rows.append([method, *(f"**{_number(m)}**" if m == best[column] else _number(m) for column, m in means)])
    head = ["method", *(f"{column}{ARROWS[result.columns[column]]}" for result, column in chosen)]
    return [
        "## Summary",
        "Means over people; the best of a column is bold, whether or not the difference is clear.",
        table(head, rows),
    ]


def _best(result: MetricResult, column: str) -> float:
    means = [c.value.mean for c in result.comparisons[column].values() if not math.isnan(c.value.mean)]
    return (max if result.columns[column] == "higher" else min)(means, default=math.nan)


def _metric_part(result: MetricResult, report: EvaluationReport) -> list[str]:
    about = result.description
    facts = (
        ("model", about.model),
        ("computed", about.layer),
        ("images", about.preprocessing),
        ("follows", about.source),
    )
    head = ["method", *(f"{column}{ARROWS[better]}" for column, better in result.columns.items())]
    values = [
        [method, *(_cell(result.comparisons[column][method].value, len(report.people)) for column in result.columns)]
        for method in report.methods
    ]
    differences = [
        [method, *(_difference(result.comparisons[column][method].difference) for column in result.columns)]
        for method in report.methods
        if method != report.settings.baseline
    ]
    parts = [f"## {result.key}", _listed(f"{name}: {text}" for name, text in facts), table(head, values)]
    if differences:
        parts += [f"Difference to {report.settings.baseline}:", table(head, differences)]
    return parts


def _sets_part(report: EvaluationReport) -> list[str]:
    values, about = report.sets.values, report.sets.description
    columns = list(next(iter(values.values())))
    rows = [[method, *(f"{found[column]:.4g}" for column in columns)] for method, found in values.items()]
    text = "" if about is None else f"{about.model}; {about.layer}; {about.preprocessing}; {about.source}."
    return ["## FID and KID", text, table(["method", *(f"{column} ↓" for column in columns)], rows)]


def _kind_tables(report: EvaluationReport) -> Iterator[str]:
    used = {prompt.kind for prompt in report.prompts}
    kinds = [kind for kind in PromptsByKind.__dataclass_fields__ if kind in used]
    for result in report.metrics:
        column = next(iter(result.columns))
        if column in result.kinds:
            found = result.kinds[column]
            rows = [[method, *(_number(found[method][kind]) for kind in kinds)] for method in report.methods]
            yield table([f"{column}{ARROWS[result.columns[column]]}", *kinds], rows)


def _costs_part(report: EvaluationReport) -> list[str]:
    rows = []
    for method, cost in report.costs.items():
        megabytes = None if cost.bytes is None else cost.bytes / 1e6
        numbers = (_seconds(cost.ready_seconds), _seconds(cost.image_seconds), _count(cost.parameters))
        rows.append([method, *numbers, NONE if megabytes is None else f"{megabytes:.3g}"])
    note = (
        "Medians over people and images, models loaded and warm. A dash was not measured here: it was trained or made "
        "elsewhere, or nothing is a person's own."
    )
    head = ["method", "references → ready, s", "image, s", "parameters of a person", "MB on disk"]
    return ["## Cost", note, table(head, rows)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _cell(found: Interval, people: int) -> str:
    if not found.people:
        return NONE
    count = "" if found.people == people else f", n {found.people}"
    bounds = "" if math.isnan(found.low) else f" [{_number(found.low)}, {_number(found.high)}]"
    return f"{_number(found.mean)}{bounds}{count}"


def _difference(found: Interval) -> str:
    if not found.people:
        return NONE
    bounds = "" if math.isnan(found.low) else f" [{found.low:+.3f}, {found.high:+.3f}]"
    text = f"{found.mean:+.3f}{bounds}"
    return f"**{text}**" if found.excludes_zero else text


def _number(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)
