"""How teachers are trained; in YAML files the section `dreambooth`."""

from dataclasses import dataclass
from typing import Literal

from difflora_core.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed, check_fields

NO_EFFECT = ("people", "gradient_checkpointing")
"""Settings that the LoRAs of a finished training do not depend on."""


@dataclass(frozen=True)
class DreamBoothConfig:
    """DreamBooth: a LoRA per person, from a few of the person's images."""

    rank: PositiveInt = 4
    """Of the LoRAs."""
    feed_forward: bool = False
    """Whether feed-forward layers have a LoRA, beside the attention layers."""
    people: PositiveInt = 4
    """People who are trained together in one batch."""
    steps: PositiveInt = 400
    """Optimizer steps."""
    images_per_person: PositiveInt = 1
    """Images of each person per step."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW's peak learning rate, which falls to zero in half a cosine."""
    warmup: NonNegativeInt = 20
    """Steps over which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's."""
    seed: Seed = 0
    """Of noise, timesteps and the order of images."""
    shared_noise: bool = True
    """All people get one sequence of noise, timesteps and captions."""
    min_snr_gamma: NonNegativeFloat = 0.0
    """γ of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556); 0 is off."""
    prior_weight: NonNegativeFloat = 0.0
    """Weight of the prior preservation loss (Ruiz et al. 2023, arXiv 2208.12242); 0 is off."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the frozen base model; the LoRAs stay float32."""
    gradient_checkpointing: bool = True
    """Compute the U-Net's activations again in the backward pass, which saves memory and costs time."""

    def __post_init__(self) -> None:
        check_fields(self)
