"""People's embeddings as conditions: references, padding, modality dropout."""

import pytest
import torch

from training.people.conditions import Conditions, People, draw_references, drop_modality


def test_references_are_drawn_and_averaged():
    embeddings = torch.eye(3)[None]  # one person, three orthogonal images
    people = torch.zeros(5, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    single = draw_references(embeddings, people, torch.ones(5, dtype=torch.long), 0.0, g)
    assert set(map(tuple, single.tolist())) <= {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    all_three = draw_references(embeddings, people, torch.full((5,), 3), 0.0, g)
    torch.testing.assert_close(all_three, torch.full((5, 3), 3**-0.5))


def test_padding_is_never_drawn():
    embeddings = torch.eye(4)[None].repeat(2, 1, 1)  # two people, four orthogonal images; the second has only two
    people, available = torch.tensor([0, 1]).repeat(50), torch.tensor([4, 2])
    g = torch.Generator().manual_seed(0)
    for count in (1, 2, 3):
        drawn = draw_references(embeddings, people, torch.full((100,), count), 0.0, g, available)
        assert not drawn[1::2, 2:].any()
        assert (drawn > 0).sum(1).tolist() == [count, min(count, 2)] * 50
        assert (drawn[:, :2] > 0).any(0).all()


def test_every_image_is_drawn_alike():
    embeddings, people = torch.eye(4)[None], torch.zeros(2000, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    drawn = draw_references(embeddings, people, torch.full((2000,), 2), 0.0, g, torch.tensor([3]))
    shares = (drawn > 0).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 2 / 3, 2 / 3, 0.0]), atol=0.04, rtol=0)


def test_the_first_images_leave_out_the_padding():
    face = torch.eye(3).repeat(2, 1, 1)
    first, _ = Conditions(face, face, torch.tensor([3, 1])).first(2)
    torch.testing.assert_close(first, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("counts", [[0, 3], [2, 4]])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="Every person has 1 to 3 images"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.tensor(counts))


def test_embeddings_of_other_images_are_refused():
    with pytest.raises(ValueError, match="of the same images"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


def test_latents_of_other_people_are_refused():
    with pytest.raises(ValueError, match="found 5 and 2"):
        People(torch.zeros(5, 2, 2), Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))


@pytest.mark.parametrize(("face", "image"), [(0.0, 0.0), (0.3, 0.3), (0.5, 0.0), (0.1, 0.7), (0.0, 1.0)])
def test_modalities_are_dropped_at_their_shares_and_never_both(face, image):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([drop_modality(face, image, generator) for _ in range(2000)])
    assert drawn.float().mean(0).tolist() == pytest.approx([face, image], abs=0.04)
    assert not drawn.all(1).any()
