"""The LoRA weight autoencoder (LAE): a flat LoRA to a latent a few hundred times smaller, and back.

The networks have one interface: `conv` is the paper's, `token` our other one, `baselines` what they are compared with.
This module has what is around them: statistics and latents.

Nothing inside normalizes a LoRA by its own size: scale is identity strength and has to be kept. The statistics outside
the network (mean LoRA, scale per factor, latent mean and deviation) belong to the training set, not to a LoRA, so they
do not count in the compression ratio. They stay in float32 when the network is in half precision: LoRAs and latents
are float32 at either end.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..lora.layout import LoRALayout
from .baselines import FlatAutoencoder, LinearAutoencoder
from .config import LAEConfig
from .conv import ConvAutoencoder
from .principal_components import LoRAColumns, Read, slices, thinning
from .staged import StagedAutoencoder
from .token import TokenAutoencoder

Network = StagedAutoencoder | FlatAutoencoder | LinearAutoencoder
MIN_SPREAD = 1e-5
"""Share of a factor's size below which LoRAs are taken not to differ in it: float32 rounds at 6e-8 of a weight."""


def network_for(layout: LoRALayout, config: LAEConfig) -> Network:
    """Make the network that the configuration names, untrained."""
    if config.kind == "token":
        return TokenAutoencoder(layout, config)
    if config.kind == "conv":
        return ConvAutoencoder(layout.numel, config)
    if config.kind == "flat":
        return FlatAutoencoder(layout.numel, config)
    return LinearAutoencoder(layout.numel, config)


class LAE(nn.Module):
    """The autoencoder with its statistics: flat LoRAs (batch, numel) ⇄ latents (batch, tokens, width).

    Latents are standardized dimension by dimension over the training LoRAs, so that diffusion gets about a unit
    Gaussian and zero is the average person. A new LAE has to be fitted to training LoRAs (`fit`), or loaded.
    """

    mean: Tensor
    factor_scale: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, layout: LoRALayout, config: LAEConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        self.network = network_for(layout, config)
        self.register_buffer("mean", torch.zeros(layout.numel))
        self.register_buffer("factor_scale", torch.ones(len(layout.factor_sizes)))
        self.register_buffer("latent_mean", torch.zeros(config.tokens, config.width))
        self.register_buffer("latent_std", torch.ones(config.tokens, config.width))

    @property
    def compression_ratio(self) -> float:
        """Size of a LoRA over size of its latent, which is all that encodes a LoRA."""
        return self.layout.numel / (self.config.tokens * self.config.width)

    def encode(self, flat: Tensor) -> Tensor:
        """Encode LoRAs (batch, numel) into latents (batch, tokens, width); of a variational network the mean.

        Raises:
            ValueError: The LoRAs have another layout.
        """
        self.layout.check(flat)
        return self.posterior(self.normalize(flat))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (batch, tokens, width) into LoRAs (batch, numel).

        Raises:
            ValueError: The latents are of another LAE.
        """
        if latents.shape[1:] != self.latent_mean.shape:
            expected = tuple(self.latent_mean.shape)
            raise ValueError(
                f"Latents of this LAE are (batch, {expected[0]}, {expected[1]}), found {tuple(latents.shape)}."
            )
        return self.restore(self._decode(latents))

    def posterior(self, normalized: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the distribution of the standardized latents of normalized LoRAs (batch, numel).

        Returns:
            Mean and logarithm of the variance, (batch, tokens, width); no variance unless the network is variational.
        """
        mean, log_variance = self.network.posterior(normalized.to(self._dtype))
        if log_variance is not None:
            log_variance = log_variance.to(self.latent_std.dtype) - 2 * self.latent_std.log()
        return (mean.to(self.latent_mean.dtype) - self.latent_mean) / self.latent_std, log_variance

    def forward(
        self, normalized: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reconstruct normalized LoRAs.

        Args:
            normalized: (batch, numel), see `normalize`.
            generator: With it a variational network decodes a sample of the posterior (Kingma and Welling, arXiv
                1312.6114, section 2.4), else its mean.

        Returns:
            The reconstruction (batch, numel), and the posterior, see `posterior`.
        """
        mean, log_variance = self.posterior(normalized)
        latents = mean
        if log_variance is not None and generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            latents = mean + (0.5 * log_variance).exp() * noise
        return self._decode(latents), mean, log_variance

    def _decode(self, latents: Tensor) -> Tensor:
        raw = latents * self.latent_std + self.latent_mean
        return self.network.decode(raw.to(self._dtype)).to(self.mean.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def normalize(self, flat: Tensor) -> Tensor:
        """Compute the deviation from the mean LoRA in units of the factor's scale, (batch, numel)."""
        return (flat - self.mean) / self._scale()

    def restore(self, normalized: Tensor) -> Tensor:
        """Invert `normalize`."""
        return normalized * self._scale() + self.mean

    def _scale(self) -> Tensor:
        """Repeat each factor's scale for all of its weights: (numel,)."""
        sizes = torch.tensor(self.layout.factor_sizes, device=self.factor_scale.device)
        return self.factor_scale.repeat_interleave(sizes, output_size=self.layout.numel)

    @torch.no_grad()
    def fit(self, loras: Tensor | LoRAColumns) -> None:
        """Take statistics and starting weights from training LoRAs.

        Args:
            loras: (loras, numel), or a store of which columns are read slice by slice, never all of it.

        Raises:
            ValueError: There are fewer than two LoRAs, one holds NaN, or they have another layout.
        """
        if isinstance(loras, Tensor):
            self.layout.check(loras)
        if (count := len(loras)) < 2:
            raise ValueError(f"Fitting an LAE needs at least two LoRAs, found {count}.")

        def columns(start: int, stop: int) -> Tensor:
            found = loras[:, start:stop] if isinstance(loras, Tensor) else loras.columns(start, stop)
            return found.to(self.mean)

        self._measure(columns, count)
        scale, step = self._scale(), thinning(count)

        def normalized(start: int, stop: int) -> Tensor:
            return (columns(start, stop) - self.mean[start:stop]) / scale[start:stop]

        def thinned(start: int, stop: int) -> Tensor:
            # All LoRAs are read, so as many columns at a time as fit of all, not of those that are taken
            parts = list(slices(stop - start, count)) or [(0, 0)]
            return torch.cat([normalized(start + a, start + b)[::step].contiguous() for a, b in parts], dim=1)

        self.network.initialize_from(thinned, len(range(0, count, step)))
        self._standardize([self.network.encode_columns(normalized, count)])
        self.network.start_variance(self.latent_std)

    @torch.no_grad()
    def start_without_loras(self, start: Tensor, deviation: float, generator: torch.Generator) -> None:
        """Initialize where there are no LoRAs to fit to: latents of unit deviation decode to noise around one LoRA.

        Args:
            start: What zero decodes to, (numel,).
            deviation: Of the decoded weights from it.
            generator: Of the network's starting weights.

        Raises:
            ValueError: The LoRA has another layout, or the network is a baseline.
        """
        self.layout.check(start[None])
        if not isinstance(self.network, StagedAutoencoder):
            raise ValueError(f"An LAE of kind {self.config.kind!r} is fitted to LoRAs; without any take conv or token.")
        self.mean.copy_(start)
        self.factor_scale.fill_(deviation)
        self.latent_mean.zero_()
        self.latent_std.fill_(self.network.initialize_at_random(generator))
        self.network.start_variance(self.latent_std)

    def _measure(self, read: Read, count: int) -> None:
        """Measure the mean LoRA and the scale of every factor."""
        variances, squares = torch.empty_like(self.mean), torch.empty_like(self.mean)
        for start, stop in slices(self.layout.numel, count):
            columns = read(start, stop)
            if not (finite := columns.isfinite().all(1)).all():
                raise ValueError(f"LoRA {int((~finite).nonzero()[0])} holds NaN or infinite values.")
            self.mean[start:stop] = columns.mean(0)
            variances[start:stop] = columns.var(0)
            squares[start:stop] = columns.square().mean(0)
        sizes = self.layout.factor_sizes
        variance = torch.stack([part.mean() for part in variances.split(sizes)])
        if self.config.scale == "spread":
            spread, size = variance.sqrt(), torch.stack([part.mean() for part in squares.split(sizes)]).sqrt()
            # Of a factor that all LoRAs share (LoRA-FA's down) the spread is rounding, and would count like a person
            self.factor_scale.copy_(torch.where(spread > MIN_SPREAD * size, spread, size))
            self.factor_scale[size == 0] = 1.0
        else:
            # To first order δ(BA) = δB·A + B·δA: an error in one factor weighs as much as the other factor is long
            lengths = torch.stack([part.sum() for part in squares.split(sizes)])
            other = lengths.unflatten(0, (-1, 2)).flip(1).flatten()
            self.factor_scale.copy_(other.clamp_min(1e-20).rsqrt())
            weights = torch.tensor(sizes, device=variance.device)
            self.factor_scale *= ((variance / self.factor_scale.square()) * weights).sum().div(weights.sum()).sqrt()
        self.factor_scale.clamp_min_(1e-12)

    @torch.no_grad()
    def fit_latents(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and deviation of the latents of training LoRAs, again after training.

        Args:
            batches: All of the LoRAs, (batch, numel) each.

        Raises:
            ValueError: There are fewer than two LoRAs.
        """
        self._standardize(self.network.encode(self.normalize(batch).to(self._dtype)) for batch in batches)

    def _standardize(self, batches: Iterable[Tensor]) -> None:
        count = 0
        total, squares = (torch.zeros_like(self.latent_mean, dtype=torch.float64) for _ in range(2))
        for raw in batches:
            count += len(raw)
            total += raw.double().sum(0)
            squares += raw.double().square().sum(0)
        if count < 2:
            raise ValueError(f"The latents' deviation needs at least two LoRAs, found {count}.")
        mean = total / count
        deviation = ((squares - count * mean.square()) / (count - 1)).clamp_min(0).sqrt()
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, 1))  # 1 where nothing varies
