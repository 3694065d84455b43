"""What a report says, as blocks: a table for each metric, with intervals and differences."""

import math
from collections.abc import Iterator, Sequence

from ..metrics.cosines import OTHERS
from ..metrics.metric import Better
from ..prompt_list import PromptsByKind
from ..results import MetricResult
from ..statistics import CONFIDENCE, Interval
from .evaluation_report import EvaluationReport, versions
from .report_blocks import Block, Heading, Items, Paragraph, Picture, Table

ARROWS: dict[Better, str] = {"higher": " ↑", "lower": " ↓", "neither": ""}
NONE = "–"
FEW = 10
"""People below which a bootstrap says little."""


def report_blocks(report: EvaluationReport, sheets: Sequence[Picture]) -> Iterator[Block]:
    """Yield the blocks of a report.

    Args:
        report: What was found.
        sheets: Its contact sheets.
    """
    yield Heading("Evaluation")
    yield from _introduction(report)
    yield from _summary(report)
    for result in report.metrics:
        yield from _metric(result, report)
    yield from _sets(report)
    yield from _kinds(report)
    yield from _costs(report)
    yield Heading("Methods")
    yield Items([f"**{name}**: {text}" for name, text in report.placements.items()])
    yield Heading("Prompts")
    yield Items([f"{prompt.template} ({prompt.kind})" for prompt in report.prompts], numbered=True)
    for title, lines in (("Remarks", report.remarks), ("Not measured", report.not_measured)):
        if lines:
            yield Heading(title)
            yield Items(lines)
    for sheet in sheets:
        yield Heading(sheet.title)
        yield sheet


def _introduction(report: EvaluationReport) -> Iterator[Block]:
    settings, people = report.settings, report.people
    seeds = f"{len(settings.seeds)} seed{'s' * (len(settings.seeds) != 1)}"
    sampler = settings.sampler or "the base model's own sampler"
    yield Paragraph(f"{len(people)} people × {len(report.prompts)} prompts × {seeds} × {len(report.methods)} methods.")
    if settings.dataset is not None:
        seen = "of whom no network has learned" if settings.split == "test" else "on whom weights were chosen"
        place = f"{settings.dataset.parent.name}/{settings.dataset.name}"
        yield Paragraph(f"The people are those of the split {settings.split} of {place}, {seen}.")
    yield Paragraph(
        f"Base model {settings.base.name}, {settings.size} px, {sampler}, {settings.steps} steps, guidance "
        f"{settings.guidance_scale:g}, {settings.dtype}, on {report.device}; the same noise for all people and methods."
    )
    intervals = (
        f"Values are means over people, in brackets {CONFIDENCE:.0%} bootstrap intervals (BCa) over people, not over "
        f"images. Differences are to {settings.baseline}, person by person; bold where the interval is of "
        f"{FEW} people or more and does not hold 0. n: people who were measurable, where that is not all of them. "
        "Cosines are raw. Values of other papers are measured with other people, prompts and models: never compare."
    )
    if len(people) < FEW:
        intervals += (
            f" Of {len(people)} people, fewer than {FEW}, intervals are too narrow: conclude nothing from them."
        )
    yield Paragraph(intervals)
    yield Paragraph(", ".join(f"{name} {found}" for name, found in versions().items()) + ".")


def summary_columns(report: EvaluationReport) -> list[tuple[MetricResult, str]]:
    """Return the first column of each metric, and likeness to images that methods were not given."""
    return [
        (result, column)
        for result in report.metrics
        for number, (column, better) in enumerate(result.columns.items())
        if better != "neither" and (number == 0 or is_likeness(column))
    ]


def is_likeness(column: str) -> bool:
    """Whether a column compares with images of the person that methods were not given."""
    return column.endswith(f", {OTHERS}")


def _summary(report: EvaluationReport) -> Iterator[Block]:
    chosen = summary_columns(report)
    if not chosen:
        return
    columns = [column for _, column in chosen]
    # Two models of one architecture name their columns alike
    titles = [_title(r, c) if columns.count(c) == 1 else f"{_title(r, c)} ({r.key})" for r, c in chosen]
    rows = [
        [method, *(_summary_cell(r, c, method, len(report.people)) for r, c in chosen)] for method in report.methods
    ]
    yield Heading("Summary")
    yield Paragraph(
        "Means over people. Bold is the best of a column among the methods with the most people and images, whether or "
        "not the difference is clear. Fewer, because a method failed or no face was found, stand beside their mean: it "
        "is of other images than the rest."
    )
    yield Table(["method", *titles], rows)


def _summary_cell(result: MetricResult, column: str, method: str, everybody: int) -> str:
    people, images = _measured(result, column, method)
    mean = result.comparisons[column][method].value.mean
    if not people:
        return NONE
    text = _number(mean) if people == everybody else f"{_number(mean)}, n {people}"
    if (people, images) != (most := _most_measured(result, column)):
        return f"{text}, {images} images" if people == most[0] else text
    return f"**{text}**" if mean == _best(result, column) else text


def _measured(result: MetricResult, column: str, method: str) -> tuple[int, int]:
    """People and values behind a mean."""
    return result.comparisons[column][method].value.people, result.measured[column][method]


def _most_measured(result: MetricResult, column: str) -> tuple[int, int]:
    return max(_measured(result, column, method) for method in result.comparisons[column])


def _best(result: MetricResult, column: str) -> float:
    """Best mean of the methods that were measured on the most; means of fewer people or images are not comparable."""
    found, most = result.comparisons[column], _most_measured(result, column)
    means = [found[m].value.mean for m in found if most[0] and _measured(result, column, m) == most]
    return (max if result.columns[column] == "higher" else min)(means, default=math.nan)


def _title(result: MetricResult, column: str) -> str:
    return f"{column}{ARROWS[result.columns[column]]}"


def _metric(result: MetricResult, report: EvaluationReport) -> Iterator[Block]:
    about, found = result.description, result.comparisons
    facts = (("model", about.model), ("computed", about.layer), ("images", about.preprocessing))
    head = ["method", *(_title(result, column) for column in result.columns)]
    yield Heading(result.key)
    yield Items([f"{name}: {text}" for name, text in (*facts, ("follows", about.source))])
    yield Table(
        head,
        [[m, *(_cell(found[column][m].value, len(report.people)) for column in found)] for m in report.methods],
    )
    others = [method for method in report.methods if method != report.settings.baseline]
    if others:
        yield Paragraph(f"Difference to {report.settings.baseline}:")
        yield Table(
            head,
            [[m, *(_difference(found[column][m].difference, len(report.people)) for column in found)] for m in others],
        )


def _sets(report: EvaluationReport) -> Iterator[Block]:
    values = report.sets.values
    if not values:
        return
    columns = list(next(iter(values.values())))
    yield Heading("FID and KID")
    for about in report.sets.descriptions:
        yield Paragraph(f"{about.model}; {about.layer}; {about.preprocessing}; {about.source}.")
    yield Table(
        ["method", *(f"{column} ↓" for column in columns)],
        [[method, *(f"{found[column]:.4g}" for column in columns)] for method, found in values.items()],
    )


def _kinds(report: EvaluationReport) -> Iterator[Block]:
    used = {prompt.kind for prompt in report.prompts}
    kinds = [kind for kind in PromptsByKind.__dataclass_fields__ if kind in used]
    pairs = [(result, next(iter(result.columns))) for result in report.metrics]
    pairs = [(result, column) for result, column in pairs if column in result.kinds]
    if not pairs:
        return
    yield Heading("By kind of prompt")
    yield Paragraph("Means over people, first column of each metric.")
    for result, column in pairs:
        found = result.kinds[column]
        rows = [[method, *(_number(found[method][kind]) for kind in kinds)] for method in report.methods]
        yield Table([_title(result, column), *kinds], rows)


def _costs(report: EvaluationReport) -> Iterator[Block]:
    yield Heading("Cost")
    yield Paragraph(
        "Medians over people and images, models loaded and warm. A dash was not measured here: it was trained or made "
        "elsewhere, or nothing is a person's own. LoRAs are applied beside the weights here; merged into them, as "
        "ComfyUI does, an image takes as long as without. A workflow prepares a person within the first image."
    )
    yield Table(
        ["method", "references → ready, s", "first image, s", "image, s", "parameters of a person", "MB on disk"],
        [
            [
                method,
                _optional(cost.ready_seconds, "{:.3g}"),
                _optional(cost.first_image_seconds, "{:.3g}"),
                _optional(cost.image_seconds, "{:.3g}"),
                _optional(cost.parameters, "{:,}"),
                _optional(None if cost.bytes is None else cost.bytes / 1e6, "{:.3g}"),
            ]
            for method, cost in report.costs.items()
        ],
    )


def _cell(found: Interval, people: int) -> str:
    if not found.people:
        return NONE
    count = "" if found.people == people else f", n {found.people}"
    bounds = "" if math.isnan(found.low) else f" [{_number(found.low)}, {_number(found.high)}]"
    return f"{_number(found.mean)}{bounds}{count}"


def _difference(found: Interval, people: int) -> str:
    if not found.people:
        return NONE
    count = "" if found.people == people else f", n {found.people}"
    bounds = "" if math.isnan(found.low) else f" [{found.low:+.3f}, {found.high:+.3f}]"
    text = f"{found.mean:+.3f}{bounds}{count}"
    return f"**{text}**" if found.excludes_zero and found.people >= FEW else text


def _number(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}"


def _optional(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
