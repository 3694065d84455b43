"""The order of a person's images: every image in turn, the same captions for people who lack some of them."""

import torch

from training.base_model.person_images import PersonImages, image_order


def test_every_image_is_taken_once_in_each_pass():
    order = torch.cat([image_order(6, step, 2, seed=0) for step in range(6)])
    for one_pass in order.split(6):
        assert sorted(one_pass.tolist()) == list(range(6))
    assert not torch.equal(order[:6], order[6:12])


def test_the_order_depends_on_the_seed_and_on_the_person_if_one_is_named():
    orders = [image_order(64, 0, 64, seed, person) for seed in (0, 1) for person in (None, "ann", "bob")]
    assert torch.equal(orders[0], image_order(64, 0, 64, 0))
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_steps_before_the_first_have_an_order_too():
    """Held-out losses take negative steps."""
    assert sorted(torch.cat([image_order(4, step, 2, 0) for step in (-2, -1)]).tolist()) == [0, 1, 2, 3]


def test_a_missing_image_leaves_the_others_in_their_steps():
    order = image_order(4, step=0, images_per_person=4, seed=0)
    bert = PersonImages("bert", torch.zeros(3, 1), torch.zeros(3), torch.tensor([0, 2, 3]), 4)
    stand_in = {0: 0, 1: 2, 2: 2, 3: 3}
    assert bert.positions[bert.nearest(order)].tolist() == [stand_in[position] for position in order.tolist()]


def test_after_the_last_image_the_first_stands_in():
    anna = PersonImages("anna", torch.zeros(2, 1), torch.zeros(2), torch.tensor([0, 1]), 3)
    assert anna.nearest(torch.tensor([2])).tolist() == [0]
