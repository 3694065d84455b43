"""How Textual Inversion is trained; defaults: diffusers' example for SDXL, 500 steps of 4 images."""

from dataclasses import dataclass

from difflora_core.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, check_fields

PERSON = "{person}"
"""Where the token stands in captions."""
NO_EFFECT = ("gradient_checkpointing",)
"""Settings that the vectors of a finished training do not depend on."""


@dataclass(frozen=True)
class TextualInversionConfig:
    """Textual Inversion: vectors of one token, learned through the frozen base model.

    Raises:
        ValueError: A value is out of range, or a caption has no {person}.
    """

    vectors: PositiveInt = 1
    """Tokens that the one token stands for."""
    steps: PositiveInt = 500
    """Optimizer steps."""
    images_per_step: PositiveInt = 4
    """Noisy images per step."""
    learning_rate: PositiveFloat = 2e-3
    """AdamW's, constant: the example's 5e-4, which it multiplies by the images per step."""
    weight_decay: NonNegativeFloat = 1e-2
    """AdamW's."""
    captions: tuple[str, ...] = (
        "a photo of a {person}",
        "a portrait of a {person}",
        "a close-up photo of a {person}",
        "a cropped photo of a {person}",
        "a bright photo of a {person}",
        "a dark photo of a {person}",
        "a good photo of a {person}",
        "a photo of the face of a {person}",
    )
    """Neutral captions, of which each training image gets each in turn."""
    seed: Seed = 0
    """Of noise, timesteps and the order of images and captions."""
    gradient_checkpointing: bool = True
    """Compute the U-Net's activations again in the backward pass, which saves memory and costs time."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.captions or any(PERSON not in caption for caption in self.captions):
            raise ValueError(f"captions is {list(self.captions)}, expected one or more with {PERSON}")
