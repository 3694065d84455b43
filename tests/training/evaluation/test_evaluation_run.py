"""Planning, generation, measuring and the report, with a base model of colors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difflora_core.images import read_image
from tests.training.evaluation.small_evaluation import PEOPLE, SIZE, Brightness, SmallEvaluation
from training.evaluation.method_settings import MethodSettings
from training.evaluation.methods.method import ImageRequest, MadeImage
from training.evaluation.methods.shared_base import ReadyBase
from training.evaluation.metric_list import MetricSource
from training.evaluation.settings import FaceMetricSettings, MetricSettings


def test_all_images_are_made_and_reported(small: SmallEvaluation) -> None:
    path = small.evaluation().run()
    assert len(small.images()) == 3 * 2 * 2 * 2
    assert small.base.generated == 3 * 2 * 2 + 2 * 2, "images without a LoRA are the same for all people"
    found = small.report()["metrics"]["brightness"]["columns"]["brightness"]["methods"]
    own, none = found["own"], found["none"]
    assert own["value"]["n"] == 3
    assert own["value"]["mean"] > none["value"]["mean"] + 0.3
    assert own["difference"]["mean"] == pytest.approx(own["value"]["mean"] - none["value"]["mean"])
    assert own["kinds"].keys() == {"clothing", "view"}
    assert small.report()["compared_with"] == "none"
    text = path.with_name("report.md").read_text()
    assert "3 people × 2 prompts × 2 seeds × 2 methods" in text
    assert "intervals are too narrow" in text
    assert small.report()["methods"]["own"]["cost"]["parameters"] == 2 * 3 + 4 * 2
    assert (path.parent / "sheets" / "people.png").is_file()


def test_a_lora_on_the_positive_side_is_a_method_of_its_own(small: SmallEvaluation) -> None:
    methods = {side: MethodSettings("lora", small.folder / "loras", side=side) for side in ("both", "positive")}
    small.evaluation(methods=methods).run()
    found = small.report()["metrics"]["brightness"]["columns"]["brightness"]["methods"]
    assert found["positive"]["value"]["mean"] > found["both"]["value"]["mean"] + 0.05
    placements = {name: method["placement"] for name, method in small.report()["methods"].items()}
    assert "LoRA at strength 1; side positive: the LoRA acts on the positive prompt alone" in placements["positive"]
    assert "side" not in placements["both"]
    small.base.generated = 0
    swapped = {"both": methods["both"], "positive": methods["both"]}
    evaluation = small.evaluation(methods=swapped)
    assert "are made again: method.side was 'positive', is None" in "\n".join(evaluation.describe())
    evaluation.run()
    assert small.base.generated == 3 * 2 * 2
    images = small.images()
    assert images["both/ann/01_0.png"] == images["positive/ann/01_0.png"]


def test_seeds_and_prompts_differ_and_people_do_not_without_a_lora(small: SmallEvaluation) -> None:
    small.evaluation().run()
    images = small.images()
    assert images["none/ann/01_0.png"] == images["none/bob/01_0.png"]
    assert len({images[f"none/ann/{name}.png"] for name in ("01_0", "01_1", "02_0", "02_1")}) == 4


def test_an_interrupted_run_ends_as_an_uninterrupted_one(small: SmallEvaluation, tmp_path: Path) -> None:
    small.evaluation(output=tmp_path / "whole").run()
    expected = {
        p.relative_to(tmp_path / "whole" / "images").as_posix(): p.read_bytes()
        for p in (tmp_path / "whole" / "images").rglob("*.png")
    }
    small.base.generated, small.base.fails_after = 0, 7
    with pytest.raises(KeyboardInterrupt):
        small.evaluation().run()
    done = len(small.images())
    assert done == 12 + 3
    small.base.fails_after = None
    small.evaluation().run()
    assert small.base.generated == 16
    assert small.images() == expected


def test_what_is_there_is_neither_made_nor_measured_again(small: SmallEvaluation) -> None:
    small.evaluation().run()
    opened, generated = Brightness.opened, small.base.generated
    first = small.report()
    small.evaluation().run()
    assert (Brightness.opened, small.base.generated) == (opened, generated)
    assert small.report() == first


def test_an_unrecorded_or_deleted_image_is_made_again(small: SmallEvaluation) -> None:
    small.evaluation().run()
    before = small.images()
    folder = small.folder / "output" / "images"
    (folder / "none" / "ann" / "01_0.png").unlink()
    (small.folder / "output" / "records" / "own" / "bob.json").write_text("{")
    small.base.generated = 0
    small.evaluation().run()
    assert small.base.generated == 1 + 4
    assert small.images() == before


def test_a_changed_prompt_is_made_again_alone(small: SmallEvaluation) -> None:
    small.evaluation().run()
    before = small.images()
    small.write_prompts(clothing=["a {person} in blue"], view=["a {person} from above"])
    small.base.generated = 0
    small.evaluation().run()
    changed = {name for name, content in small.images().items() if content != before[name]}
    assert small.base.generated == 2 + 6
    assert changed == {name for name in before if Path(name).name.startswith("01_")}


def test_changed_settings_are_noticed(small: SmallEvaluation, capsys: pytest.CaptureFixture[str]) -> None:
    small.evaluation().run()
    lines = list(small.evaluation(steps=7).describe())
    assert "none: 12 of 12 images are to be made" in lines
    assert any("made from something else and are made again: settings.steps was 30, is 7" in line for line in lines)
    small.base.generated = 0
    small.evaluation(keep=True, steps=7).run()
    assert small.base.generated == 0
    assert "are kept" in small.report()["remarks"][0]
    small.evaluation(steps=7).run()
    assert small.base.generated == 16
    assert small.report()["remarks"] == []


def test_kept_images_are_not_mixed_with_others(small: SmallEvaluation) -> None:
    small.evaluation().run()
    (small.folder / "output" / "images" / "none" / "bob" / "01_0.png").unlink()
    with pytest.raises(
        ValueError, match=r"method none: bob: 1 of 4 images are missing, .*settings\.steps was 30, is 7"
    ):
        small.evaluation(keep=True, steps=7)


def test_another_model_measures_again(small: SmallEvaluation) -> None:
    small.evaluation().run()
    opened, small.version = Brightness.opened, "2"
    small.evaluation().run()
    assert Brightness.opened == opened + 1


def test_an_infinite_score_is_named_and_not_written(small: SmallEvaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brightness, "score", lambda _, sample: {"brightness": np.full(len(sample.images), np.inf)})
    with pytest.raises(ValueError, match=r"brightness: none, ann: 4 of 4 values of brightness are infinite"):
        small.evaluation().run()
    assert not list((small.folder / "output" / "scores").rglob("ann.json"))


def test_somebody_whom_a_method_cannot_do_is_left_out_and_named(small: SmallEvaluation) -> None:
    (small.folder / "loras" / "bob.safetensors").write_bytes(b"")
    small.evaluation().run()
    report = small.report()
    assert report["failures"]["own"].keys() == {"bob"}
    values = report["metrics"]["brightness"]["columns"]["brightness"]["methods"]
    assert (values["own"]["value"]["n"], values["none"]["value"]["n"]) == (2, 3)
    assert values["own"]["difference"]["n"] == 2
    assert "own, bob:" in (small.folder / "output" / "report.md").read_text()


def test_a_failure_of_an_image_that_is_no_longer_wanted_is_forgotten(
    small: SmallEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ReadyBase, requests: Sequence[ImageRequest]) -> list[MadeImage]:
        if requests[0].prompt.kind == "view":
            raise ValueError("no views")
        return self.base.generate(requests, self.subject)

    monkeypatch.setattr(ReadyBase, "generate", refuse)
    small.evaluation(batch=1, seeds=(0,)).run()
    assert small.report()["failures"]["own"] == dict.fromkeys(PEOPLE, "no views")
    small.write_prompts(clothing=["a {person} in red"])
    small.evaluation(batch=1, seeds=(0,)).run()
    assert not small.report()["failures"]
    assert small.report()["metrics"]["brightness"]["columns"]["brightness"]["methods"]["own"]["value"]["n"] == 3


def test_images_of_another_program(small: SmallEvaluation) -> None:
    for name in PEOPLE:
        (folder := small.folder / "theirs" / name).mkdir(parents=True)
        for number in (1, 2):
            for seed in (0, 1):
                Image.new("RGB", (SIZE, SIZE), (250, 250, 250)).save(folder / f"{number}_{seed}.jpg")
    methods = {"none": MethodSettings("none"), "theirs": MethodSettings("images", small.folder / "theirs")}
    small.evaluation(methods=methods).run()
    values = small.report()["metrics"]["brightness"]["columns"]["brightness"]["methods"]
    assert values["theirs"]["value"]["mean"] == pytest.approx(250 / 255)
    assert small.base.generated == 4
    (small.folder / "theirs" / "bob" / "2_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"method theirs: .*bob lacks 1 of 4 images, first 02_1\.png"):
        small.evaluation(methods=methods)


def test_one_output_is_anothers_method(small: SmallEvaluation, tmp_path: Path) -> None:
    small.evaluation().run()
    methods = {"own again": MethodSettings("images", small.folder / "output" / "images" / "own")}
    small.evaluation(methods=methods, output=tmp_path / "second").run()
    assert read_image(small.folder / "output" / "images" / "own" / "ann" / "01_0.png").size == (SIZE, SIZE)


def test_what_would_pass_in_silence_is_said_before_and_in_the_report(small: SmallEvaluation, tmp_path: Path) -> None:
    """Photos of a kind that is not read, and images of another program in another size."""
    (small.folder / "people" / "ann" / "references" / "IMG_1.HEIC").touch()
    small.evaluation().run()
    given = small.folder / "output" / "images" / "own"
    Image.new("RGB", (SIZE, 2 * SIZE)).save(given / "bob" / "01_0.png")
    methods = {"given": MethodSettings("images", given)}
    evaluation = small.evaluation(methods=methods, output=tmp_path / "second")
    expected = (
        "ann: 1 file passed over: IMG_1.HEIC; images are jpg,",
        "given: 1 of 12 images are not of 32 × 32 pixels, first bob/01_0.png with 32 × 64;",
    )
    before = "\n".join(evaluation.describe())
    report = evaluation.run().with_name("report.md").read_text().split("## Remarks\n")[1]
    assert all(text in before and text in report for text in expected)
    (given / "bob" / "02_1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"method given: .*02_1\.png is no image, or is damaged"):
        small.evaluation(methods=methods | {"none": MethodSettings("none")}, output=tmp_path / "third").run()


def test_a_missing_model_ends_before_anything_is_made(small: SmallEvaluation) -> None:
    metrics = MetricSettings(FaceMetricSettings("nobody", small.folder), dino="no/model")
    evaluation = small.evaluation(metrics=metrics)
    lines = "\n".join(evaluation.describe())
    assert "face pack of Face Sim is missing" in lines
    assert "the model of DINO is missing" in lines
    with pytest.raises(FileNotFoundError, match="leave these metrics out"):
        evaluation.run()
    assert small.base.generated == 0


@pytest.mark.parametrize("part", ["references", "others"])
def test_a_damaged_image_ends_before_anything_is_made(small: SmallEvaluation, part: str) -> None:
    whole = (small.folder / "people" / "bob" / part / "0.png").read_bytes()
    (small.folder / "people" / "bob" / part / "0.png").write_bytes(whole[: len(whole) // 2])
    evaluation = small.evaluation()
    assert any(f"{part}/0.png is damaged or cut off" in line for line in evaluation.describe())
    with pytest.raises(
        ValueError, match=rf"{part}/0\.png is damaged or cut off.*Replace these images, or take them out"
    ):
        evaluation.run()
    assert small.base.generated == 0


def test_a_missing_lora_is_named(small: SmallEvaluation) -> None:
    (small.folder / "loras" / "cy.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"method own: there is no LoRA .*cy\.safetensors"):
        small.evaluation()


def test_every_method_that_lacks_something_is_named_at_once(small: SmallEvaluation) -> None:
    """What several methods lack is said once."""
    (small.folder / "loras" / "cy.safetensors").unlink()
    methods = {side: MethodSettings("lora", small.folder / "loras", side=side) for side in ("both", "positive")}
    others = {"none": MethodSettings("none"), "theirs": MethodSettings("images", small.folder / "absent")}
    with pytest.raises(
        FileNotFoundError, match=r"^method both, positive: .*cy\.safetensors.*; method theirs: .*absent"
    ):
        small.evaluation(methods=methods | others)


def test_sources_need_no_model_to_be_listed(small: SmallEvaluation) -> None:
    assert [source.key for source in small.evaluation().metrics] == ["brightness"]
    assert isinstance(small.evaluation().metrics[0], MetricSource)
