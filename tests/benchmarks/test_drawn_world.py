"""`benchmarks.images.drawn_world`: images without a LoRA, which no person's LoRA makes differ."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.images.drawn_world import without_lora


@dataclass(frozen=True)
class SeedsInPlaceOfImages:
    """A `LoRAEvaluation` whose images are the number of their seed."""

    seed: int

    def generate(self, loras: Tensor) -> np.ndarray:
        """One image of each LoRA, which has to be none."""
        assert not loras.any()
        return np.full((len(loras), 1), self.seed)


def test_every_batch_of_images_without_a_lora_has_noise_of_its_own():
    first, second = (without_lora(SeedsInPlaceOfImages(seed), 12)[:, 0].tolist() for seed in (1, 2))  # type: ignore[arg-type]
    assert len(first) == 12
    batches = [first[:5], first[5:10], first[10:]]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert len({batch[0] for batch in batches}) == 3
    assert not set(first) & set(second)
