"""How LAE, MIF and DiT are fine-tuned end to end."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from difflora_core.denoiser.config import TIMESTEPS
from difflora_core.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, check_fields
from training.engine.config import EvaluationConfig, TrainConfig

EVALUATION = EvaluationConfig(interval=200, monitor="teacher_recovery")
LOOP = TrainConfig(steps=2000, learning_rate=3e-4, warmup=50, ema=0.98, unused_parameters=True, device="auto")


@dataclass(frozen=True)
class LAEFinetuning:
    """Fine-tuning of the autoencoder.

    Raises:
        ValueError: A value is outside its range.
    """

    loop: TrainConfig = LOOP
    """Steps, optimizer, processes."""
    evaluation: EvaluationConfig = EVALUATION
    """How often validation people are evaluated, and which weights are kept."""
    people: PositiveInt = 4
    """Per micro-batch."""
    reconstruction_weight: NonNegativeFloat = 0.02
    """Of the weight-space loss, beside the diffusion loss with weight 1."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DenoiserFinetuning:
    """Fine-tuning of MIF and DiT.

    The latent-space loss keeps the latents' meaning and gives guidance something to learn from, but with little noise
    it teaches the network to trust the latent that comes in, which in sampling is the network's own prediction: hence
    the small weight, and nearly pure noise. In the miniature, teacher recovery in 1, 4 and 20 steps of 32 validation
    people after 300 more steps of one training: 1.36, 1.35, 1.32 with weight 0.02 and a timestep bias of 1.5, and 1.36,
    1.36, 1.35 with these settings.

    Raises:
        ValueError: A value is outside its range.
    """

    loop: TrainConfig = LOOP
    """Steps, optimizer, processes."""
    evaluation: EvaluationConfig = EVALUATION
    """How often validation people are evaluated, and which weights are kept."""
    people: PositiveInt = 4
    """People per micro-batch whose images the diffusion loss takes."""
    batch: PositiveInt = 32
    """Teachers per micro-batch of the latent-space loss."""
    latent_loss_weight: NonNegativeFloat = 0.005
    """Of the latent-space loss, beside the diffusion loss with weight 1."""
    max_references: PositiveInt = 6
    """A random number of images up to this one is averaged into the condition."""
    embedding_noise: NonNegativeFloat = 0.25
    """Length of noise on the averaged embedding, relative to it."""
    cfg_dropout: Share = 0.1
    """Share of the latent-space loss's samples with the null condition."""
    modality_dropout: Share = 0.3
    """Share of steps with only the face or only the image embedding, each in half of them."""
    timestep_bias: PositiveFloat = 8.0
    """Of the latent-space loss, see `draw_timesteps`."""
    max_rollout_steps: Annotated[int, Interval(ge=1, le=TIMESTEPS)] = 50
    """Most steps of the samplers whose latents occur in on-policy rollouts."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class JointTraining:
    """Training of MIF, DiT and LAE together, from people's images, and from teachers beside where there are some.

    Raises:
        ValueError: A value is outside its range, or all LoRAs of a micro-batch are teachers.
    """

    loop: TrainConfig = LOOP
    """Steps, optimizer, processes."""
    evaluation: EvaluationConfig = field(
        default_factory=lambda: EvaluationConfig(interval=200, monitor="loss_reduction")
    )
    """How often validation people are evaluated, and which weights are kept."""
    people: PositiveInt = 16
    """Per micro-batch, each with one LoRA."""
    teachers: NonNegativeInt = 0
    """So many of these LoRAs are teachers that the LAE has encoded and decoded; the others are predicted."""
    start_deviation: PositiveFloat = 0.04
    """Of the weights that a new decoder makes of unit latents, from the start that all teachers would share."""
    encoding_weight: NonNegativeFloat = 0.02
    """Of the encoder's loss, which finds the latents of predicted LoRAs, beside the diffusion loss with weight 1."""
    lora_penalty: NonNegativeFloat = 0.0
    """Weight of the mean square of normalized LoRAs (output regularization, arXiv 2511.03156)."""
    max_references: PositiveInt = 6
    """A random number of images up to this one is averaged into the condition."""
    embedding_noise: NonNegativeFloat = 0.25
    """Length of noise on the averaged embedding, relative to it."""
    cfg_dropout: Share = 0.05
    """Share of the people with the null condition, which comes to mean the average person."""
    modality_dropout: Share = 0.3
    """Share of steps with only the face or only the image embedding, each in half of them."""
    max_rollout_steps: Annotated[int, Interval(ge=1, le=TIMESTEPS)] = 50
    """Most steps of the samplers whose latents occur in on-policy rollouts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.teachers >= self.people:
            raise ValueError(
                f"teachers is {self.teachers} of the {self.people} LoRAs of `people`, expected fewer: the others are "
                "predicted"
            )
