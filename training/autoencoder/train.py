"""Train the LoRA autoencoder: start at principal components, accept only what validation people confirm.

A thousand LoRAs of 84,224 numbers are few, so a free network soon learns them by heart. Three things keep it honest:
it starts at PCA quality (`LAE.fit`), it sees blends of two people instead of people (all teachers share one start, so
a blend is a plausible teacher), and the weights with the best validation are kept, be they the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from difflora_core import losses
from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.lora.layout import LoRALayout
from difflora_core.losses import DeltaWeights
from training.engine.loop import LossFunction, TrainConfig
from training.engine.rounds import Figures, Report, train_in_rounds
from training.store.loras import ROWS_AT_ONCE, LoRAs, LoRAsInMemory, in_batches

MAX_BASELINE_SIZE = 2**28  # numbers of the principal components that a run is compared with, 1 GB


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term of the loss (`TERMS`); a term of weight 0 is not computed."""

    reconstruction: float = 1.0
    weight_preserved: float = 0.5
    delta_w_error: float = 0.0
    delta_w_direction: float = 0.0
    spectrum: float = 0.0
    kl: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or max(astuple(self)) <= 0:
            raise ValueError(f"losses need weights of at least 0, one of them above 0: found {asdict(self)}")

    def active(self) -> dict[str, float]:
        """The terms that count, and how much."""
        return {name: weight for name, weight in asdict(self).items() if weight}


@dataclass(frozen=True)
class LAETraining:
    """How the autoencoder is trained; the augmentation is our choice.

    batch: LoRAs per part of a step (see `training_loop`). blend: share of samples that are a blend of two people.
    noise: deviation added to the input, in units of the factor's scale. scale: deviation of the logarithm of a random
    factor on a LoRA's deviation from the mean. rounds: validations, of which the one with the highest `monitor` is
    kept (`teacher_recovery` needs pictures, see `picture_check`); patience: stop after so many without improvement.
    """

    loop: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=600, learning_rate=3e-4, warmup=50, weight_decay=0.01, ema=0.99)
    )
    batch: int = 32
    losses: LossWeights = field(default_factory=LossWeights)
    blend: float = 0.5
    noise: float = 0.0
    scale: float = 0.0
    rounds: int = 6
    patience: int | None = None
    monitor: Literal["r2", "delta_w_cosine", "teacher_recovery"] = "r2"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.rounds < 1 or not 0 <= self.blend <= 1 or self.noise < 0 or self.scale < 0:
            raise ValueError(
                "batch and rounds are at least 1, blend is a share, noise and scale are at least 0: found "
                f"batch {self.batch}, rounds {self.rounds}, blend {self.blend}, noise {self.noise}, scale {self.scale}"
            )


@dataclass(frozen=True)
class Outcome:
    """What the terms compare. predicted, target: normalized (batch, numel). mean, log_variance: of the latents
    (batch, tokens, width), standardized; log_variance is None unless the network is variational.
    """

    lae: LAE
    predicted: Tensor
    target: Tensor
    mean: Tensor
    log_variance: Tensor | None

    @cached_property
    def raw(self) -> tuple[Tensor, Tensor]:
        """Prediction and target as LoRAs."""
        return self.lae.restore(self.predicted), self.lae.restore(self.target)


def _kl(outcome: Outcome, delta: DeltaWeights) -> Tensor:
    assert outcome.log_variance is not None  # `LAEObjective` refuses the term for other networks
    return losses.kl(outcome.mean, outcome.log_variance)


TERMS: Mapping[str, Callable[[Outcome, DeltaWeights], Tensor]] = {
    "reconstruction": lambda outcome, delta: losses.reconstruction(outcome.predicted, outcome.target),
    "weight_preserved": lambda outcome, delta: losses.weight_preserved(outcome.predicted, outcome.target),
    "delta_w_error": lambda outcome, delta: delta.relative_error(*outcome.raw),
    "delta_w_direction": lambda outcome, delta: delta.direction(*outcome.raw),
    "spectrum": lambda outcome, delta: delta.spectrum(*outcome.raw),
    "kl": _kl,
}
"""The terms by the names of `LossWeights`; formulas and sources stand in `difflora_core.losses`."""


class Reconstruct(nn.Module):
    """The autoencoder as one forward pass: (predicted, mean, log_variance) of normalized numbers (batch, numel)."""

    def __init__(self, lae: LAE) -> None:
        super().__init__()
        self.lae = lae

    def forward(
        self, numbers: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.lae.reconstruct(numbers, generator)


class LAEObjective:
    """The loss function of one part of a batch: LoRAs are drawn, blended, scaled, and reconstructed."""

    def __init__(self, lae: LAE, loras: LoRAs, training: LAETraining) -> None:
        """Raises ValueError where a term doesn't fit the network, or a batch has more LoRAs than there are."""
        if training.batch > len(loras):
            raise ValueError(
                f"a batch has {training.batch} LoRAs, there are {len(loras)} to train on: lower `batch`, or add people"
            )
        if training.losses.kl and not lae.config.variational:
            raise ValueError("losses.kl needs a variational network: set lae.variational, or losses.kl to 0")
        self.lae, self.loras, self.training = lae, loras, training
        self.weights = training.losses.active()
        self.delta = DeltaWeights(lae.layout)

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        target = self.draw(generator)
        # Only a variational network draws; torch.compile can't follow a generator
        dice = (generator,) if self.lae.config.variational else ()
        predicted, mean, log_variance = model(self._with_noise(target, generator), *dice)
        outcome = Outcome(self.lae, predicted, target, mean, log_variance)
        delta = self.delta.to(target.device)
        values = {name: TERMS[name](outcome, delta) for name in self.weights}
        loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return loss, {name: value.detach() for name, value in values.items()}

    def draw(self, generator: torch.Generator) -> Tensor:
        """Augmented normalized numbers (batch, numel)."""
        size, settings = self.training.batch, self.training
        first, second = torch.randint(0, len(self.loras), (2, size), generator=generator)
        amount = torch.rand(size, 1, generator=generator)
        amount = amount * (torch.rand(size, 1, generator=generator) < settings.blend)
        factor = (settings.scale * torch.randn(size, 1, generator=generator)).exp() if settings.scale else None
        target = self._numbers(first)
        if len(mixed := amount[:, 0].nonzero()[:, 0]):
            where = mixed.to(target.device)
            target[where] = torch.lerp(target[where], self._numbers(second[mixed]), amount[mixed].to(target))
        return target if factor is None else target * factor.to(target)

    def _numbers(self, rows: Tensor) -> Tensor:
        return self.lae.normalize(self.loras.read(rows.tolist()).to(self.lae.mean.device))

    def _with_noise(self, target: Tensor, generator: torch.Generator) -> Tensor:
        if not self.training.noise:
            return target
        if target.device.type != "cpu":  # millions of numbers: drawn where they are needed, with dice of that device
            seed = int(torch.randint(0, 2**62, (), generator=generator))
            generator = torch.Generator(target.device).manual_seed(seed)
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        return target + self.training.noise * noise


@torch.no_grad()
def validate(lae: LAE, loras: Tensor | LoRAs, terms: LossWeights | None = None) -> Figures:
    """R² of normalized numbers, mean cosine of ΔW against the mean LoRA, and the named terms, on LoRAs (people, numel).

    Every figure is a mean over all people, without augmentation and, if the network is variational, of its mean.
    """
    source = LoRAsInMemory(loras) if isinstance(loras, Tensor) else loras
    device, delta = lae.mean.device, DeltaWeights(lae.layout).to(lae.mean.device)
    error, size = 0.0, 0.0
    sums = dict.fromkeys(["delta_w_cosine", *(terms.active() if terms else ())], 0.0)
    for batch in in_batches(source, ROWS_AT_ONCE):
        batch = batch.to(device)
        numbers = lae.normalize(batch)
        outcome = Outcome(lae, *_reconstructed(lae, numbers))
        error += float((outcome.predicted - numbers).square().sum())
        size += float(numbers.square().sum())
        for name in sums:
            value = (
                TERMS[name](outcome, delta) if name in TERMS else delta.cosine(outcome.raw[0], batch, lae.mean).mean()
            )
            sums[name] += float(value) * len(batch)
    return {"r2": 1 - error / size, **{name: total / len(source) for name, total in sums.items()}}


def _reconstructed(lae: LAE, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    predicted, mean, log_variance = lae.reconstruct(numbers)
    return predicted, numbers, mean, log_variance


def new_lae(layout: LoRALayout, config: LAEConfig, seed: int) -> LAE:
    """An autoencoder that knows nothing yet, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):  # modules can draw their first weights from the global generator only
        torch.manual_seed(seed)
        return LAE(layout, config)


def train_lae(
    loras: Tensor | LoRAs,
    validation: Tensor | LoRAs,
    layout: LoRALayout,
    config: LAEConfig,
    training: LAETraining,
    folder: Path,
    report: Report,
    look: Callable[[LAE, int], Figures] | None = None,
) -> LAE:
    """Train on LoRAs (people, numel) float32; resumable in folder/lae.safetensors.

    report(name, figures) is told of the start, with PCA at the same budget beside it where that is not too large, and
    of every round. look(lae, round) adds figures to a round's, of the start (round 0) too.

    Raises:
        ValueError: LoRAs that are not finite or zero; fewer than two; fewer than a batch; a folder with another run.
    """
    trained, others = (LoRAsInMemory(x) if isinstance(x, Tensor) else x for x in (loras, validation))
    check_people(len(trained), len(others))
    lae = new_lae(layout, config, training.loop.seed)
    objective: LossFunction = LAEObjective(lae, trained, training)
    rounds_done = 0

    def judge() -> Figures:
        return validate(lae, others, training.losses) | (look(lae, rounds_done) if look else {})

    def prepare() -> dict[str, Figures]:
        lae.fit(trained)
        start = judge()
        if layout.numel * config.tokens * config.width <= MAX_BASELINE_SIZE:
            baseline = LAE(layout, LAEConfig(kind="linear", tokens=config.tokens, width=config.width))
            baseline.fit(trained)
            start |= {f"pca_{name}": value for name, value in validate(baseline, others).items()}
        return {"start": start}

    def tell(name: str, figures: Figures) -> None:
        nonlocal rounds_done
        rounds_done += 1
        report(name, figures)

    train_in_rounds(
        Reconstruct(lae),
        objective,
        training.loop,
        folder,
        "lae",
        training.rounds,
        prepare,
        judge,
        tell,
        training.patience,
        training.monitor,
        {"lae": asdict(config), "layout": layout.to_dict()},
    )
    lae.fit_latents(batch.to(lae.mean.device) for batch in in_batches(trained))
    return lae.eval().requires_grad_(False)


def check_people(training: int, validation: int) -> None:
    """Raise ValueError if there are too few to learn from, or to judge by."""
    if training < 2:
        raise ValueError(f"the training split has {training} people: an autoencoder needs at least two, and many more")
    if not validation:
        raise ValueError(
            "the validation split is empty, so nobody could tell when to stop: pack the store with `pack.validation` "
            "above 0, and enough people that its share is not nobody"
        )
