"""Images of another program by their names."""

from pathlib import Path

import pytest

from training.evaluation.methods.given_images import GivenImages
from training.evaluation.methods.method import ImageRequest
from training.evaluation.people_folders import EvaluatedPerson
from training.evaluation.prompt_list import Prompt

ANN = EvaluatedPerson("ann", (), ())
REQUESTS = [ImageRequest(Prompt(number, "view", "{person}"), seed) for seed in (0, 12) for number in (1, 10)]


def write(folder: Path, *names: str) -> GivenImages:
    (folder / "ann").mkdir(exist_ok=True)
    for name in names:
        (folder / "ann" / name).touch()
    return GivenImages(folder)


def test_numbers_may_have_leading_zeros_and_other_files_are_passed_over(tmp_path: Path) -> None:
    names = ("01_0.png", "10_00.JPG", "001_12.webp", "10_12.jpeg")
    method = write(tmp_path, *names, "notes.txt", "2_0.png", "x_1_0.png", "1_0.png.part")
    assert [path.name for path in method.files(ANN, REQUESTS)] == list(names)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    method = write(tmp_path, "1_0.png", "10_0.png", "10_12.png")
    with pytest.raises(FileNotFoundError, match=r"ann lacks 1 of 4 images, first 01_12\.png .*seed 12"):
        method.files(ANN, REQUESTS)
    with pytest.raises(FileNotFoundError, match="bob lacks 4 of 4 images"):
        method.files(EvaluatedPerson("bob", (), ()), REQUESTS)


def test_two_images_of_one_prompt_and_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"01_0\.png and 1_0\.jpg are of the same prompt and seed"):
        write(tmp_path, "1_0.jpg", "01_0.png").files(ANN, REQUESTS)
