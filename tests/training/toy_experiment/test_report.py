"""The latent sizes that are compared."""

from training.toy_experiment.report import LATENT_SIZES, latent_sizes


def test_full_weights_also_get_the_latents_of_equal_ratio():
    assert latent_sizes("LoRA", 100, 350) == list(LATENT_SIZES)
    assert set(latent_sizes("full", 100, 350)) == {*LATENT_SIZES, 14, 56, 224}
