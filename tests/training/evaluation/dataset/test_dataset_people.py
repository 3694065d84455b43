"""People of a dataset in place of a folder: which images methods are given, and which are kept from all of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.training.evaluation.small_evaluation import SIZE, SmallEvaluation
from training.evaluation.dataset.dataset_people import dataset_people, read_person
from training.evaluation.people_folders import EvaluatedPerson
from training.evaluation.settings import MethodSettings
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stages.pack_plan import split_of

PEOPLE = [f"person_{number:02d}" for number in range(8)]
SETTINGS = """\
workspace: work
base: base
generate: {enabled: false}
preprocess: {held_out: 2}
pack: {validation: 0.3, test: 0.4}
"""


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """A workspace in which six images of each person were collected, of which the filter has dropped one."""
    (tmp_path / "dataset.yaml").write_text(SETTINGS)
    config = load_config(tmp_path / "dataset.yaml")
    for person in PEOPLE:
        names = [f"{number:03d}.png" for number in range(6)]
        for name in names:
            path = config.stage("collect") / person / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(path)
        entries = [{"file": f"collect/{person}/{name}", "caption": "a person"} for name in names]
        kept = [entries[place] for place in (5, 0, 3, 2, 1)]  # the most similar first
        for stage, facts in (
            ("collect", {"images": names}),
            ("generate", {"images": entries}),
            ("filter", {"kept": kept}),
        ):
            Manifest(config.stage(stage)).write(Record(person, facts=facts))
        Manifest(config.stage("preprocess")).write(Record(person))
    return config


def numbers(person: EvaluatedPerson) -> tuple[list[int], list[int]]:
    return [int(path.stem) for path in person.references], [int(path.stem) for path in person.others]


def test_what_no_teacher_was_trained_on_is_kept_for_measuring(config: DatasetConfig) -> None:
    person = read_person(config, PEOPLE[0], 2)
    assert all(path.is_file() for path in (*person.references, *person.others))
    assert numbers(person) == ([0, 1], [3, 5])
    assert numbers(read_person(config, PEOPLE[0], 9)) == ([0, 1, 2], [3, 5])
    none = replace(config, preprocess=replace(config.preprocess, held_out=0))
    assert numbers(read_person(none, PEOPLE[0], 2)) == ([0, 1], [])
    all_of_them = replace(config, preprocess=replace(config.preprocess, held_out=5))
    with pytest.raises(ValueError, match=r"person_00 has 5 images .*held_out keeps 5: no reference is left"):
        read_person(all_of_them, PEOPLE[0], 2)


def test_collected_images_stand_for_the_person_where_others_are_generated(config: DatasetConfig) -> None:
    generating = replace(config, generate=replace(config.generate, enabled=True))
    assert numbers(read_person(generating, PEOPLE[0], 2)) == ([0, 1], [2, 3, 4, 5])
    assert numbers(read_person(generating, PEOPLE[0], 9)) == ([0, 1, 2, 3, 4, 5], [])


def test_people_of_the_split_are_evaluated(small: SmallEvaluation, config: DatasetConfig) -> None:
    who = {"people": None, "dataset": small.folder / "dataset.yaml"}
    expected = [person for person in PEOPLE if split_of(person, 0.3, 0.4) == "test"]
    assert [person.name for person in dataset_people(small.settings(**who))] == expected
    few = small.settings(**who, max_people=1, split="validation")
    assert [person.name for person in dataset_people(few)] == [
        p for p in PEOPLE if split_of(p, 0.3, 0.4) == "validation"
    ][:1]
    path = small.evaluation(**who, methods={"none": MethodSettings("none")}).run()
    assert small.report()["people"].keys() == set(expected)
    assert f"those of the split test of {small.folder.name}/dataset.yaml" in path.with_name("report.md").read_text()
