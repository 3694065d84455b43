"""The report as Markdown and as a page."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.evaluation.small_evaluation import Brightness, SmallEvaluation
from training.evaluation.evaluation_run import Evaluation
from training.evaluation.metric_list import MetricSource
from training.evaluation.metrics.metric import PersonSample, Scores
from training.evaluation.report.report_blocks import Heading, Items, Paragraph, Table, to_markdown


def test_blocks_as_markdown() -> None:
    blocks = [
        Heading("Title"),
        Heading("Part"),
        Paragraph("Text."),
        Items(["a\nb", "c"], numbered=True),
        Table(["method", "x"], [["one | two", "1"]]),
    ]
    assert to_markdown(blocks) == (
        "# Title\n\n## Part\n\nText.\n\n1. a b\n2. c\n\n| method | x |\n| --- | ---: |\n| one \\| two | 1 |\n"
    )


def test_the_page_holds_everything(small: SmallEvaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of methods and columns are not markup; contact sheets and the scatter are inside."""
    columns = {"fidelity <b>": "higher", "likeness, other images": "higher"}
    monkeypatch.setattr(Brightness, "columns", columns)
    score = Brightness.score

    def two_columns(self: Brightness, sample: PersonSample) -> Scores:
        return dict.fromkeys(columns, score(self, sample)["brightness"])

    monkeypatch.setattr(Brightness, "score", two_columns)
    path = small.evaluation().run()
    page = path.read_text()
    assert path.name == "report.html"
    assert "fidelity &lt;b&gt;" in page
    assert "fidelity <b>" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("<circle") == 2
    assert not re.search(r"<script|(src|href)=.?http", page)
    markdown = path.with_name("report.md").read_text()
    for heading in ("Summary", "By kind of prompt", "Cost", "Methods", "Prompts", "Not measured"):
        assert f"## {heading}\n" in markdown
        assert f"<h2>{heading}</h2>" in page
    assert "1. a {person} in red (clothing)" in markdown
    for sheet in re.findall(r"\]\((sheets/.+?)\)", markdown):
        assert Image.open(path.parent / sheet).width > 300


def test_the_device_is_the_one_that_computed(small: SmallEvaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"card {device}")
    path = Evaluation(small.settings(), "cuda:1").run()
    assert "on card cuda:1;" in path.with_name("report.md").read_text()


def test_columns_of_one_name_have_a_best_value_each(small: SmallEvaluation) -> None:
    """As of two CLIP models of one architecture, here of which the second finds the other method better."""

    class Darkness(Brightness):
        def score(self, sample: PersonSample) -> Scores:
            return {name: 1.0 - values for name, values in super().score(sample).items()}

    sources = [MetricSource(kind.__name__, kind, dict) for kind in (Brightness, Darkness)]
    path = Evaluation(small.settings(), "cpu", sources).run()
    head, _, none, own = path.with_name("report.md").read_text().split("## Summary\n")[1].splitlines()[3:7]
    assert head == "| method | brightness ↑ (Brightness) | brightness ↑ (Darkness) |"
    assert ["**" in cell for cell in none.split("|")[2:4]] == [False, True]
    assert ["**" in cell for cell in own.split("|")[2:4]] == [True, False]


def test_without_a_pair_of_columns_there_is_no_scatter(small: SmallEvaluation) -> None:
    assert "<circle" not in small.evaluation().run().read_text()


class BrightImagesAlone(Brightness):
    """As a face metric: of one image without a face there is no value."""

    def score(self, sample: PersonSample) -> Scores:
        scores = {name: values + 0.0 for name, values in super().score(sample).items()}
        if scores["brightness"].max() > 0.6:  # the method `own`
            scores["brightness"][0] = np.nan
        return scores


@pytest.mark.parametrize(("metric", "said"), [(Brightness, ", n 2 "), (BrightImagesAlone, ", 9 images ")])
def test_a_mean_of_fewer_people_or_images_is_not_the_best(
    small: SmallEvaluation, metric: type[Brightness], said: str
) -> None:
    if metric is Brightness:
        (small.folder / "loras" / "bob.safetensors").write_bytes(b"")  # `own` can't do him
    sources = [MetricSource("brightness", metric, dict)]
    path = Evaluation(small.settings(), "cpu", sources).run()
    none, own = path.with_name("report.md").read_text().split("## Summary\n")[1].splitlines()[5:7]
    assert "**" in none
    assert "**" not in own
    assert said in own
    measured = small.report()["metrics"]["brightness"]["columns"]["brightness"]["methods"]
    assert measured["none"]["measured"] == 12
    assert measured["own"]["measured"] < 12
    assert measured["own"]["value"]["mean"] > measured["none"]["value"]["mean"]
    difference = path.with_name("report.md").read_text().split("Difference to none:")[1].split("##")[0]
    assert "**" not in difference, "of three people an interval is too narrow"
