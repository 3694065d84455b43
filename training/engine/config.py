"""How a module is trained, its learning rate's schedule, and how often it is evaluated."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from difflora_core.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed, check_fields


@dataclass(frozen=True)
class TrainConfig:
    """One training run: steps, optimizer, precision, processes.

    Raises:
        ValueError: A value is outside its range, the warmup is longer than the training, or `shard` and `compile` are
            both set.
    """

    steps: NonNegativeInt
    """Optimizer steps."""
    learning_rate: PositiveFloat
    """Peak, reached after `warmup` steps; then a cosine to a twentieth of it."""
    warmup: NonNegativeInt = 100
    """Steps of linear warmup."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's."""
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Decay of the exponential moving average of the parameters."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    save_every: PositiveInt = 200
    """Steps between two states on disk."""
    seed: Seed = 0
    """Of everything that is drawn while training."""
    accumulate: PositiveInt = 1
    """Micro-batches per step and process, one after another."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """`bf16` runs the forward pass in bfloat16; parameters and moments stay float32."""
    compile: bool = False
    """Whether the module is compiled by torch.compile."""
    device: Literal["cpu", "auto"] = "cpu"
    """`auto` is what Accelerate finds: CUDA, MPS, …"""
    log_with: tuple[str, ...] = ()
    """Accelerate's trackers by name ("tensorboard", "wandb", …); a log in JSON lines is always written."""
    unused_parameters: bool = False
    """Whether some steps leave parameters without a gradient, which several processes have to know."""
    shard: bool = False
    """Whether several processes share parameters, gradients, moments and EMA (FSDP2, see `sharding`) in place of each
    having a copy (DDP). Not together with `compile`."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shard and self.compile:
            raise ValueError("shard and compile exclude each other: sharded modules run uncompiled. Choose one.")
        check_warmup(self.warmup, self.steps)


@dataclass(frozen=True)
class EvaluationConfig:
    """How often a run is evaluated on validation people, and which weights it keeps.

    Raises:
        ValueError: The interval or the patience is below 1.
    """

    interval: PositiveInt = 100
    """Steps between two evaluations; the last step is evaluated, too."""
    monitor: Literal["r2", "delta_w_cosine", "teacher_recovery", "loss_reduction"] = "r2"
    """The metric, higher is better, by which the best weights are kept. `teacher_recovery` and `loss_reduction` need
    held-out images."""
    patience: PositiveInt | None = None
    """Stop after so many evaluations in a row without improvement; None trains to the end. Only evaluations
    that measure the monitored metric count: of teacher_recovery every `diffusion_loss_check.every`-th."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check_monitor(self, *measured: str) -> None:
        """Check that a trainer measures the monitored metric; else it would keep no weights but those of the start.

        Raises:
            ValueError: It measures others.
        """
        if self.monitor not in measured:
            raise ValueError(
                f"evaluation.monitor is {self.monitor}, which is not measured here: expected {' or '.join(measured)}"
            )


def check_warmup(warmup: int, steps: int) -> None:
    """Check that a learning rate reaches its peak within the training; a training of no steps is accepted.

    Raises:
        ValueError: The warmup is longer than the training.
    """
    if 0 < steps < warmup:
        raise ValueError(
            f"warmup is {warmup}, longer than the {steps} steps: the learning rate would never reach its peak. Lower "
            "warmup"
        )


def linear_warmup(step: int, warmup: int) -> float:
    """Return a step's share of the peak rate, counted from 0: 1 / warmup in step 0, 1 from step `warmup` − 1 on."""
    return min(1.0, (step + 1) / max(1, warmup))


def cosine_decay(progress: float, final: float = 0.0) -> float:
    """Return the share of the peak rate at a share of the training: 1 at progress 0, `final` from progress 1 on."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
