"""The whole evaluation: plan, generate, measure, report."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from difflora_core.files import replacing
from difflora_core.images import describe_passed_over

from .generation.image_generation import ImageGeneration, describe_device
from .generation.image_sizes import describe_sizes
from .generation.image_workers import WorkerDevice, generate_on
from .generation.method_plans import MethodPlan
from .json_files import write_json
from .methods.given_images import GivenImages
from .methods.method import ImageRequest
from .metric_list import MetricSource, metric_sources, missing_models
from .people_folders import EvaluatedPerson, unreadable_images
from .report.contact_sheets import write_sheets
from .report.evaluation_report import EvaluationReport
from .report.report_blocks import to_markdown
from .report.report_page import write_page
from .report.report_tables import report_blocks
from .report.report_values import report_values
from .report.scatter import scatter
from .results import MetricResult, method_cost, metric_result
from .score_files import MeasuredSample, MetricScores, measure_all
from .set_scores import SetScores, check_distances, score_sets
from .settings import EvaluationSettings

MAX_NAMED = 5
"""Unreadable images that an error names."""


class Evaluation:
    """People, prompts, methods and metrics of some settings, nothing loaded yet."""

    def __init__(
        self,
        settings: EvaluationSettings,
        device: str,
        further_metrics: Sequence[MetricSource] = (),
        keep: bool = False,
    ) -> None:
        """Read people and prompts, and plan all methods; LoRAs of a store become files in the output.

        Args:
            settings: Of the evaluation.
            device: As torch names it.
            further_metrics: Beside those of the settings.
            keep: Whether images stay that were made from something else.

        Raises:
            FileNotFoundError: People, prompts, or something that a method needs is not there.
            ValueError: Something of it can't be used.
        """
        self.settings, self.device, self.keep = settings, device, keep
        self.generation = ImageGeneration(settings, device, keep)
        self.people, self.prompts, self.requests = (
            self.generation.people,
            self.generation.prompts,
            self.generation.requests,
        )
        self.plans = self.generation.plans
        self.metrics = [*metric_sources(settings.metrics, device), *further_metrics]

    def describe(self) -> Iterator[str]:
        """Say what there is to do, a line each."""
        total = len(self.people) * len(self.requests)
        counts = f"{len(self.people)} people × {len(self.prompts)} prompts × {len(self.settings.seeds)} seeds"
        yield f"{counts} = {total} images for each of {len(self.plans)} methods"
        for plan in self.plans:
            given = isinstance(plan.method, GivenImages)
            yield f"{plan.name}: " + ("all are given" if given else f"{plan.missing} of {total} images are to be made")
            yield from filter(None, (plan.remade, plan.kept))
            try:
                plan.check()
            except RuntimeError as error:
                yield f"{plan.name}: {error}"
        yield from self._remarks(given_alone=True)
        yield f"{len(self.metrics)} metrics: {', '.join(source.key for source in self.metrics) or 'none'}"
        yield from self._missing()
        yield from unreadable_images(self.people)

    def run(self, workers: Sequence[WorkerDevice] = ()) -> Path:
        """Generate what is missing, measure what is new, write the report; return its path.

        Args:
            workers: A process for each makes images; none: this process does.

        Raises:
            FileNotFoundError: A metric's model is missing; nothing was generated.
            ValueError: Something can't be used; of an image of a person nothing was generated before.
            RuntimeError: A method failed.
        """
        if missing := self._missing():
            raise FileNotFoundError(f"{'; '.join(missing)}. Get them, or leave these metrics out of the settings")
        if unreadable := list(unreadable_images(self.people)):
            more = f"; and {len(unreadable) - MAX_NAMED} more" if len(unreadable) > MAX_NAMED else ""
            raise ValueError(f"{'; '.join(unreadable[:MAX_NAMED])}{more}. Replace these images, or take them out")
        for plan in self.plans:
            plan.check()
            for remark in filter(None, (plan.remade, plan.kept)):
                print(remark)
        for remark in self._remarks(given_alone=True):
            print(remark)
        if workers:
            generate_on(workers, self.generation, self.keep)
        else:
            self.generation.run()
        results = self._measure()
        return self._report(results)

    def _remarks(self, given_alone: bool = False) -> Iterator[str]:
        """Say what of the people's files is passed over, and which images, or given ones alone, have another size."""
        for person in self.people:
            if person.passed_over:
                yield f"{person.name}: {describe_passed_over(person.passed_over)}"
        plans = [plan for plan in self.plans if isinstance(plan.method, GivenImages) or not given_alone]
        yield from describe_sizes(plans, self.people, self.requests, self.settings.size)

    def _missing(self) -> list[str]:
        """Say which files of metrics are missing."""
        lines, distances = missing_models(self.metrics), self.settings.metrics.distances
        try:
            if distances is not None:
                check_distances(distances)
        except FileNotFoundError as error:
            lines.append(str(error))
        return lines

    def _done(self) -> Iterator[tuple[MethodPlan, EvaluatedPerson]]:
        for plan in self.plans:
            for person in self.people:
                if plan.failure(person.name) is None:
                    yield plan, person

    def _measure(self) -> list[MetricResult]:
        pairs = list(self._done())
        samples = [self._sample(plan, person) for plan, person in pairs]
        metrics = [MetricScores(source, self.settings.output) for source in self.metrics]
        with tqdm(total=len(metrics) * len(samples), unit="person", desc="metrics", disable=None) as progress:

            def on_sample(key: str) -> None:
                progress.set_postfix_str(key)
                progress.update()

            found = measure_all(metrics, samples, on_sample)
        names = [(plan.name, person.name) for plan, person in pairs]
        return [
            metric_result(
                metric.source.key,
                metric.about,
                dict(zip(names, found[metric.source.key], strict=True)),
                [plan.name for plan in self.plans],
                [person.name for person in self.people],
                [request.prompt.kind for request in self.requests],
                self.settings.baseline,
                self.settings.seed,
            )
            for metric in metrics
        ]

    def _sample(self, plan: MethodPlan, person: EvaluatedPerson) -> MeasuredSample:
        prompts = [request.prompt.of(self.settings.class_word) for request in self.requests]
        references = person.references[: plan.method.references]
        return MeasuredSample(
            plan.name, person.name, plan.files(person, self.requests), prompts, references, person.others
        )

    def _sets(self) -> SetScores:
        metrics = self.settings.metrics
        if metrics.distances is None:
            return SetScores({})
        images: dict[str, list[Path]] = {plan.name: [] for plan in self.plans}
        for plan, person in self._done():
            images[plan.name] += plan.files(person, self.requests)
        return score_sets(metrics, images, self.settings.output, self.device, self.settings.seed)

    def _report(self, results: Sequence[MetricResult]) -> Path:
        plans, output = self.plans, self.settings.output
        failures = {p.name: {who.name: why for who in self.people if (why := p.failure(who.name))} for p in plans}
        report = EvaluationReport(
            self.settings,
            self.people,
            self.prompts,
            {plan.name: plan.placement for plan in plans},
            results,
            self._sets(),
            {plan.name: method_cost([plan.images.record(name) for name in plan.people]) for plan in plans},
            {name: found for name, found in failures.items() if found},
            [*filter(None, (plan.kept for plan in plans)), *self._remarks()],
            self._device(),
        )
        by_name = {plan.name: plan for plan in plans}

        def find(method: str, person: EvaluatedPerson, request: ImageRequest) -> Path | None:
            plan = by_name[method]
            return plan.files(person, [request])[0] if plan.failure(person.name) is None else None

        blocks = list(report_blocks(report, write_sheets(output, report.methods, self.people, self.requests, find)))
        write_json(output / "report.json", report_values(report))
        with replacing(output / "report.md") as partial:
            partial.write_text(to_markdown(blocks), encoding="utf-8")
        write_page(self.settings.report, blocks, scatter(report))
        return self.settings.report

    def _device(self) -> str:
        """Say what images were made on; their records know it."""
        found = [plan.images.record(person).facts.get("device") for plan in self.plans for person in plan.people]
        return ", and ".join(dict.fromkeys(filter(None, found))) or describe_device(self.device, 1)
