"""The LoRA weight autoencoder (LAE): a flat LoRA to a few hundred times fewer numbers and back.

Networks of one interface: `lae_conv` is the paper's, `lae_token` our other one, `lae_baselines` what they have to
beat; `lae_stages` is what the first two share. This file has what stands around them: statistics and latents.

Nothing inside normalizes a LoRA by its own size: scale is identity strength and has to survive. The statistics outside
the network (mean LoRA, scale per factor, latent mean and deviation) belong to the training set, not to a LoRA, so they
do not count as side numbers in the compression ratio.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..lora.layout import LoRALayout
from .baselines import FlatAutoencoder, LinearAutoencoder
from .config import LAEConfig
from .conv import ConvAutoencoder
from .principal_components import LoRAColumns, TensorColumns, principal_directions, principal_scores, slices, thinning
from .token import TokenAutoencoder

__all__ = ["LAE", "LAEConfig", "LoRAColumns", "principal_directions", "principal_scores"]

Network = ConvAutoencoder | TokenAutoencoder | FlatAutoencoder | LinearAutoencoder


def network_for(layout: LoRALayout, config: LAEConfig) -> Network:
    """The network that the configuration names, knowing nothing yet."""
    if config.kind == "token":
        return TokenAutoencoder(layout, config)
    if config.kind == "conv":
        return ConvAutoencoder(layout.numel, config)
    return (FlatAutoencoder if config.kind == "flat" else LinearAutoencoder)(layout.numel, config)


class LAE(nn.Module):
    """The autoencoder with its statistics: flat LoRAs ``(batch, numel)`` ⇄ latents ``(batch, tokens, width)``.

    Latents are standardized number by number over the training LoRAs, so that diffusion sees about a unit Gaussian
    and zero is the average person. A new LAE knows nothing: call :meth:`fit` on training LoRAs, or load a state dict.
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
        """Numbers of a LoRA over numbers that encode one LoRA. There are no side numbers: all are in the latent."""
        return self.layout.numel / (self.config.tokens * self.config.width)

    def encode(self, flat: Tensor) -> Tensor:
        """Latents of LoRAs; of a variational network the mean."""
        self.layout.check(flat)
        return self.posterior(self.normalize(flat))[0]

    def decode(self, latents: Tensor) -> Tensor:
        if latents.shape[1:] != self.latent_mean.shape:
            expected = tuple(self.latent_mean.shape)
            raise ValueError(
                f"Latents of this LAE are (batch, {expected[0]}, {expected[1]}), found {tuple(latents.shape)}."
            )
        return self.restore(self._decode(latents))

    def posterior(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and logarithm of the variance (batch, tokens, width) of the latents of normalized numbers.

        In standardized latents. Without a variational network there is no variance: None.
        """
        mean, log_variance = self.network.posterior(numbers)
        if log_variance is not None:
            log_variance = log_variance - 2 * self.latent_std.log()
        return (mean - self.latent_mean) / self.latent_std, log_variance

    def reconstruct(
        self, numbers: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalized numbers (batch, numel) through the latent and back: what a trainer compares, and the posterior.

        With a generator a variational network decodes a draw from the posterior (Kingma and Welling, arXiv 1312.6114,
        section 2.4), else its mean.
        """
        mean, log_variance = self.posterior(numbers)
        latents = mean
        if log_variance is not None and generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            latents = mean + (0.5 * log_variance).exp() * noise
        return self._decode(latents), mean, log_variance

    def _decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents * self.latent_std + self.latent_mean)

    def normalize(self, flat: Tensor) -> Tensor:
        """Deviation from the mean LoRA in units of the factor's scale."""
        return (flat - self.mean) / self.scale_of_numbers()

    def restore(self, numbers: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        return numbers * self.scale_of_numbers() + self.mean

    def scale_of_numbers(self) -> Tensor:
        sizes = torch.tensor(self.layout.factor_sizes, device=self.factor_scale.device)
        return self.factor_scale.repeat_interleave(sizes, output_size=self.layout.numel)

    @torch.no_grad()
    def fit(self, loras: Tensor | LoRAColumns) -> None:
        """Take statistics and starting weights from LoRAs: a tensor (loras, numel), or a store of which columns are
        read slice by slice, never all of it. Raises ValueError on bad ones.
        """
        source = loras
        if isinstance(source, Tensor):
            self.layout.check(source)
            source = TensorColumns(source)
        count = len(source)
        if count < 2:
            raise ValueError(f"Fitting an LAE needs at least two LoRAs, found {count}.")
        self._measure(source, count)
        scale, step = self.scale_of_numbers(), thinning(count)

        def read(start: int, stop: int) -> Tensor:
            columns = source.columns(start, stop).to(self.mean)
            return (columns - self.mean[start:stop]) / scale[start:stop]

        self.network.initialize_from(lambda start, stop: read(start, stop)[::step], len(range(0, count, step)))
        self._standardize([self.network.encode_columns(read, count)])
        self.network.start_variance(self.latent_std)

    def _measure(self, source: LoRAColumns, count: int) -> None:
        """Mean LoRA and the scale of every factor."""
        variances, squares = torch.empty_like(self.mean), torch.empty_like(self.mean)
        for start, stop in slices(self.layout.numel, count):
            columns = source.columns(start, stop).to(self.mean)
            if not (finite := columns.isfinite().all(1)).all():
                raise ValueError(f"LoRA {int((~finite).nonzero()[0])} holds NaN or infinite numbers.")
            self.mean[start:stop] = columns.mean(0)
            variances[start:stop] = columns.var(0)
            squares[start:stop] = columns.square().mean(0)
        sizes = self.layout.factor_sizes
        variance = torch.stack([part.mean() for part in variances.split(sizes)])
        if self.config.scale == "spread":
            self.factor_scale.copy_(variance.sqrt())
        else:
            # To first order δ(BA) = δB·A + B·δA: an error in one factor weighs as much as the other factor is long
            lengths = torch.stack([part.sum() for part in squares.split(sizes)])
            other = lengths.unflatten(0, (-1, 2)).flip(1).flatten()
            self.factor_scale.copy_(other.clamp_min(1e-20).rsqrt())
            weights = torch.tensor(sizes, device=variance.device)
            self.factor_scale *= ((variance / self.factor_scale.square()) * weights).sum().div(weights.sum()).sqrt()
        self.factor_scale.clamp_min_(1e-12)

    @torch.no_grad()
    def fit_latents(self, loras: Tensor | Iterable[Tensor], batch_size: int = 64) -> None:
        """Measure mean and deviation of the latents of training LoRAs, given as one tensor or batch by batch: to be
        called again after training.
        """
        batches = loras.split(batch_size) if isinstance(loras, Tensor) else loras
        self._standardize(self.network.encode(self.normalize(batch)) for batch in batches)

    def _standardize(self, batches: Iterable[Tensor]) -> None:
        count, total, squares = 0, self.latent_mean.double() * 0, self.latent_std.double() * 0
        for raw in batches:
            count, total, squares = (
                count + len(raw),
                total + raw.double().sum(0),
                squares + raw.double().square().sum(0),
            )
        if count < 2:
            raise ValueError(f"The latents' deviation needs at least two LoRAs, found {count}.")
        mean = total / count
        deviation = ((squares - count * mean.square()) / (count - 1)).clamp_min(0).sqrt()
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, 1))  # 1 where nothing varies
