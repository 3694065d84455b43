"""Cosines between a person's references and other images."""

import numpy as np
import pytest
import torch

from difflora_core.encoders.face_encoder import EncodedFace, NoFaceError
from difflora_core.encoders.similarity import face_similarities, find_faces


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
    assert face_similarities(Faces(), images(BLACK, RED), images(RED)).mean == 1.0
    with pytest.raises(NoFaceError, match="in any of the 2 reference images"):
        face_similarities(Faces(), images(BLACK, BLACK), images(RED))


def test_what_is_no_batch_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        find_faces(Faces(), torch.zeros(0, 4, 4, 3))
