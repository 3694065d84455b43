"""Files of embeddings are used for the people they are of, and for no others."""

from pathlib import Path

import pytest
import torch

from difflora_core.files import write_tensors
from miniature.personal import train
from miniature.personal.embeddings import embed_people, load_conditions_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Embeddings of people 3, 1 and 2."""
    path = tmp_path / "conditions" / "validation.safetensors"
    _write(path, [3, 1, 2])
    return path


def test_embeddings_of_the_people_are_read(path: Path) -> None:
    assert load_conditions_of(path, [3, 1, 2]).face.flatten().tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("people", [[1, 2, 3], [3, 1], [3, 1, 2, 4], []])
def test_embeddings_of_other_people_or_in_another_order_are_refused(path: Path, people: list[int]) -> None:
    with pytest.raises(ValueError, match=r"validation.safetensors holds the embeddings of 3 people \(3 to 2\)"):
        load_conditions_of(path, people)


def test_a_file_of_other_people_is_not_taken_for_done(path: Path) -> None:
    embed_people(path, [3, 1, 2])
    with pytest.raises(ValueError, match="expected were those of 2 people"):
        embed_people(path, [3, 1])


def test_a_build_refuses_embeddings_of_other_validation_people(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "embed_people", lambda *_: None)
    _write(path.with_name("train.safetensors"), [8, 9])
    assert len(train.embed_all(path.parent.parent, [8, 9], [3, 1, 2])[1].face) == 3
    with pytest.raises(ValueError, match=r"validation\.safetensors"):
        train.embed_all(path.parent.parent, [8, 9], [1, 2, 3])


def _write(path: Path, people: list[int]) -> None:
    values = torch.tensor(people, dtype=torch.float32)[:, None, None]
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, {"face": values, "image": values.clone(), "person": torch.tensor(people)})
