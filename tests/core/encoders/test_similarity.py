"""Cosines between a person's references and other images."""

import numpy as np
import pytest
import torch

from difflora_core.encoders.face_encoder import EncodedFace, NoFaceError
from difflora_core.encoders.similarity import face_similarities, rank_by_likeness, somebody_else


class Faces:
    """A face's embedding is the image's mean color; a black image has none."""

    def find(self, image: np.ndarray, name: str = "the image") -> EncodedFace:
        if not image.any():
            raise NoFaceError(f"Found no face in {name}")
        return EncodedFace(torch.from_numpy(image.mean((0, 1)).astype(np.float32)), torch.zeros(1), torch.zeros(1, 5))


def images(*colors: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colors).view(-1, 1, 1, 3).expand(-1, 4, 4, 3)


RED, GREEN, YELLOW, BLACK = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)


def test_cosines_are_taken_with_the_mean_direction_of_the_references():
    found = face_similarities(Faces(), images(RED, GREEN), images(YELLOW, RED))
    torch.testing.assert_close(found.cosines, torch.tensor([1.0, 0.5**0.5]))
    assert found.mean == pytest.approx((1 + 0.5**0.5) / 2)


def test_an_image_without_a_face_counts_as_zero():
    found = face_similarities(Faces(), images(RED), images(RED, BLACK))
    assert found.cosines.tolist() == [1.0, 0.0]
    assert found.faces[1] is None


def test_references_without_a_face_are_left_out():
    found = face_similarities(Faces(), images(BLACK, RED, BLACK), images(RED))
    assert (found.mean, found.left_out) == (1.0, (1, 3))
    with pytest.raises(NoFaceError, match="in any of the 2 reference images"):
        face_similarities(Faces(), images(BLACK, BLACK), images(RED))


def test_progress_counts_references_and_images_and_can_interrupt():
    calls: list[tuple[int, int]] = []
    face_similarities(Faces(), images(RED, BLACK), images(RED), lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        face_similarities(Faces(), images(RED), images(RED), interrupt)


def test_candidates_are_ranked_by_the_mean_that_is_returned():
    """An image without a face is below one of somebody else; of equal candidates the one with more faces is first."""
    cosines = [torch.tensor(values) for values in ([0.0, 0.0], [-0.2, -0.2], [-0.2, 0.0], [0.5, 0.0])]
    faces = [torch.tensor(values) for values in ([False, False], [True, True], [True, False], [True, True])]
    rows, means = zip(*rank_by_likeness(cosines, faces), strict=True)
    assert rows == (3, 1, 2, 0)
    assert means == pytest.approx((0.25, -0.2, -0.2, -0.2))


def test_candidates_without_a_face_are_not_ranked():
    with pytest.raises(ValueError, match="no image of any candidate shows a face"):
        rank_by_likeness([torch.zeros(2), torch.zeros(1)], [torch.zeros(2).bool(), torch.zeros(1).bool()])


def test_what_is_no_batch_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        face_similarities(Faces(), images(RED), torch.zeros(0, 4, 4, 3))


def near(*direction: float, count: int = 1, spread: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(direction) + count)
    return torch.tensor(direction) * 5 + spread * torch.randn(count, len(direction), generator=generator)


def test_one_person_and_single_images_are_left_alone():
    assert somebody_else(near(1, 0, 0, count=6)) == []
    assert somebody_else(near(1, 0, 0)) == []
    assert somebody_else(torch.zeros(0, 3)) == []


@pytest.mark.parametrize("own", [2, 3, 8])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_who_looks_like_somebody_else_is_found_at_any_place(own, position):
    rows = list(near(1, 0, 0, count=own))
    rows.insert(position % (own + 1), near(0, 1, 0)[0])
    ((row, cosine),) = somebody_else(torch.stack(rows))
    assert row == position % (own + 1)
    assert cosine == pytest.approx(0, abs=0.1)


def test_similarity_of_half_a_group_is_no_reason_against_the_other_half():
    """Two of five are somebody else, and alike: the three are the person, although their mean cosines are low."""
    found = somebody_else(torch.cat([near(1, 0, 0, count=3), near(0, 1, 0, count=2)]))
    assert [row for row, _ in found] == [3, 4]


def test_a_person_in_less_than_half_of_the_images_is_the_person():
    strangers = [near(*direction) for direction in ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))]
    found = somebody_else(torch.cat([*strangers, near(1, 0, 0, 0, count=2)]))
    assert [row for row, _ in found] == [0, 1, 2]


def test_if_no_two_are_alike_all_are_named():
    found = somebody_else(torch.eye(3) + torch.tensor([0.0, 0.0, 0.1]))
    assert [row for row, _ in found] == [0, 1, 2]
    assert [row for row, _ in somebody_else(torch.eye(2))] == [0, 1]
