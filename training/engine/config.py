"""How a module is trained, and how often it is evaluated."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """One training run: steps, optimizer, precision, processes.

    Raises:
        ValueError: A value is outside its range, or `shard` and `compile` are both set.
    """

    steps: int
    """Optimizer steps."""
    learning_rate: float
    """Peak, reached after `warmup` steps; then a cosine to a twentieth of it."""
    warmup: int = 100
    """Steps of linear warmup."""
    weight_decay: float = 0.0
    """AdamW's."""
    ema: float = 0.999
    """Decay of the exponential moving average of the parameters."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    save_every: int = 200
    """Steps between two states on disk."""
    seed: int = 0
    """Of everything that is drawn while training."""
    accumulate: int = 1
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
        for name, least in (("steps", 0), ("warmup", 0), ("save_every", 1), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.ema < 1 or not self.clip > 0:
            raise ValueError(
                f"learning_rate and clip are above 0, ema is from 0 to below 1: found learning_rate "
                f"{self.learning_rate}, clip {self.clip}, ema {self.ema}"
            )
        if self.shard and self.compile:
            raise ValueError("shard and compile exclude each other: sharded modules run uncompiled. Choose one.")


@dataclass(frozen=True)
class EvaluationConfig:
    """How often a run is evaluated on validation people, and which weights it keeps.

    Raises:
        ValueError: The interval or the patience is below 1.
    """

    interval: int = 100
    """Steps between two evaluations; the last step is evaluated, too."""
    monitor: Literal["r2", "delta_w_cosine", "teacher_recovery"] = "r2"
    """The metric, higher is better, by which the best weights are kept. `teacher_recovery` needs held-out images."""
    patience: int | None = None
    """Stop after so many evaluations in a row without improvement; None trains to the end."""

    def __post_init__(self) -> None:
        if self.interval < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(
                f"interval and patience are at least 1: found interval {self.interval}, patience {self.patience}"
            )
