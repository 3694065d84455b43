"""The random images that networks are trained on: shipped weights depend on the draws."""

import torch

from miniature.world.image_blocks import RANDOM, random_images, training_blocks


def test_the_draws_are_those_of_the_shipped_weights() -> None:
    shapes = [block.shape for block in training_blocks()[:24]]
    expected = torch.randint(0, 2**30, (8, 4), generator=torch.Generator().manual_seed(3)).tolist()
    found = random_images(shapes, 8, torch.Generator().manual_seed(3), more=1)
    assert found == [(block % 24, person % 50, image % 16, [last]) for block, person, image, last in expected]
    assert RANDOM == 2**30


def test_one_image_takes_three_numbers_and_fits_its_block() -> None:
    generator, same = (torch.Generator().manual_seed(5) for _ in range(2))
    for _ in range(20):
        block, person, image = torch.randint(0, 2**30, (3,), generator=same).tolist()
        (found,) = random_images([(50, 16), (1, 2)], 1, generator)
        people, images = ((50, 16), (1, 2))[block % 2]
        assert found == (block % 2, person % people, image % images, [])
