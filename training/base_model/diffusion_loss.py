"""The denoising loss of many people at once, and the dice that it is played with.

What chance decides in a step (which pictures, which timesteps, which noise) depends on the seed, the step and, with
dice of one's own, the person's name. It never depends on who else is in the batch: that is why K people trained
together get the LoRAs that each would get alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""noisy latents (batch, 4, h, w), timesteps (batch,) and rows of the text table (batch,) → the network's output."""

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
"""Clean latents, noise, timesteps, rows of the text table."""


@dataclass(frozen=True)
class PersonImages:
    """One person's training pictures.

    latents: (pictures, 4, h, w), scaled. texts: int64 (pictures,), rows of a table of text embeddings that all people
    share. places, of: where the pictures stand in the list of `of` prompts from which all people's were made, in
    ascending order; so people who lack a picture still see the same captions in the same steps as the others.
    """

    name: str
    latents: Tensor
    texts: Tensor
    places: Tensor
    of: int

    @classmethod
    def whole(cls, name: str, latents: Tensor, texts: Tensor) -> "PersonImages":
        """An album that lacks nothing."""
        return cls(name, latents, texts, torch.arange(len(latents)), len(latents))

    def nearest(self, places: Tensor) -> Tensor:
        """Pictures at these places; for a missing one the next that is there, and after the last the first."""
        return torch.searchsorted(self.places, places) % len(self.places)


@dataclass(frozen=True)
class Objective:
    """shared: all people get one noise, timestep and picture sequence. min_snr_gamma: weight of a timestep is
    min(SNR, γ) / SNR in terms of ε (Hang et al. 2023, arXiv 2303.09556), 0 is off. prior_weight: of the loss on class
    pictures (Ruiz et al. 2023, arXiv 2208.12242), 0 is off.
    """

    shared: bool = True
    min_snr_gamma: float = 0.0
    prior_weight: float = 0.0


class DenoisingLoss:
    """`PersonLoss` for training.dreambooth.train_loras; `history` keeps each step's losses (people,)."""

    def __init__(
        self,
        predict: Predict,
        scheduler: DDPMScheduler,
        albums: Sequence[PersonImages],
        rows: int,
        seed: int = 0,
        objective: Objective = Objective(),
        prior: PersonImages | None = None,
    ) -> None:
        """rows: pictures of each person per step; with a prior each person also gets as many class pictures."""
        if objective.prior_weight and prior is None:
            raise ValueError("prior preservation needs class pictures, found none")
        self.predict, self.scheduler, self.albums = predict, scheduler, list(albums)
        self.rows, self.seed, self.objective = rows, seed, objective
        self.prior = prior if objective.prior_weight else None
        self.history: list[Tensor] = []

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        """Each person's mean loss (people,). generator: the step's, of the dice that all people share."""
        clean, noise, timesteps, texts = self._batch(step, generator)
        device = self.albums[0].latents.device
        noise, timesteps, texts = noise.to(device), timesteps.to(device), texts.to(device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        output = self.predict(noisy, timesteps, texts).float()
        error = (output - loss_target(self.scheduler, clean, noise, timesteps)).square()
        value = error.mean(dim=(1, 2, 3)) * snr_weight(self.scheduler, timesteps, self.objective.min_snr_gamma)
        value = value.view(len(self.albums), -1, self.rows).mean(2)  # (people, 1), or (people, 2) with a prior
        person = value[:, 0] if self.prior is None else value[:, 0] + self.objective.prior_weight * value[:, 1]
        self.history.append(person.detach())
        return person

    def _batch(self, step: int, shared: torch.Generator) -> Rows:
        """Clean latents, noise, timesteps and text rows of all people, each person's own rows before the class's."""
        parts: list[Rows] = []
        state = shared.get_state()
        for album in self.albums:
            dice, salt = torch.Generator(), "" if self.objective.shared else album.name
            if self.objective.shared:
                dice.set_state(state)
            else:
                dice.manual_seed(_number(self.seed, album.name, step))
            parts.append(self._rows(album, step, dice, salt))
            if self.prior is not None:
                parts.append(self._rows(self.prior, step, dice, salt))
        clean, noise, timesteps, texts = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return clean, noise, timesteps, texts

    def _rows(self, album: PersonImages, step: int, dice: torch.Generator, salt: str) -> Rows:
        picks = album.nearest(picture_order(album.of, step, self.rows, self.seed, salt))
        timesteps = stratified(self.rows, self.scheduler.config.num_train_timesteps, dice)
        noise = torch.randn(self.rows, *album.latents.shape[1:], generator=dice)
        return album.latents[picks.to(album.latents.device)].float(), noise, timesteps, album.texts[picks]


def stratified(rows: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `rows` equal parts of 0 … timesteps: int64 (rows,). Less noise than free draws."""
    return ((torch.arange(rows) + torch.rand(rows, generator=generator)) / rows * timesteps).long()


def picture_order(pictures: int, step: int, rows: int, seed: int = 0, salt: str = "") -> Tensor:
    """The step's pictures, int64 (rows,): every picture in turn, in a new order each round. salt: a person's name,
    where each has an order of their own.
    """
    turn = step * rows // pictures
    number = 1_000_003 * seed + turn if not salt else _number(seed, f"order {salt}", turn)
    order = torch.randperm(pictures, generator=torch.Generator().manual_seed(number))
    return order[torch.arange(step * rows, (step + 1) * rows) % pictures]


def loss_target(scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network is to predict (batch, 4, h, w): the noise or the velocity, as the scheduler says."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    raise ValueError(f"the base model predicts {kind!r}; 'epsilon' and 'v_prediction' can be trained")


def snr_weight(scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR weights (batch,) of the squared error of what the network predicts; ones if gamma is 0.

    With SNR s: min(s, γ) / s for ε, min(s, γ) / (s + 1) for v. At zero terminal SNR these are 1 and 0.
    """
    if not gamma:
        return torch.ones(timesteps.shape, device=timesteps.device)
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    ratio = kept / (1 - kept).clamp_min(1e-8)
    if scheduler.config.prediction_type == "v_prediction":
        return ratio.clamp(max=gamma) / (ratio + 1)
    return (gamma / ratio.clamp_min(1e-20)).clamp(max=1.0)


def _number(seed: int, name: str, step: int) -> int:
    """A generator's seed from the person's name: the same on every machine, whoever else is trained."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{step}\n{name}".encode()).digest()[:7], "big")
