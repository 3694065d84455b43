"""How measured figures carry over to other sizes: the formulas of `plan`, each in a function of its own."""

from collections.abc import Sequence

from .cards import BatchTime, Card, DreamBoothFigure
from .network_sizes import NetworkSize

GIB = 2**30
FORWARD_AND_BACKWARD, WITH_CHECKPOINTING = 3, 4
"""Forward passes that a training step is worth: a backward pass is worth two; with checkpointing the forward is run
twice."""
UNET_BYTES, TEXT_ENCODER_BYTES, VAE_BYTES = 2 * 2_567_463_684, 2 * (123_060_480 + 694_659_840), 4 * 83_653_863
SDXL_BYTES = UNET_BYTES + TEXT_ENCODER_BYTES + VAE_BYTES
"""SDXL as `training.base_model.sdxl` holds it: U-Net and text encoders in bf16, the VAE in float32."""
PHOTOMAKER_BYTES = 1.3e9
"""The identity encoder, a CLIP ViT-L with two projections, in float32."""
ROW_PIXELS = 768**2
"""Of the figures for one image below, which grow with the pixels."""
UNET_ROW_BYTES = 0.46 * GIB
"""Of a U-Net's forward pass without gradients, for each row in bf16: torch's tensors counted on the meta device."""
VAE_WORKSPACE = 1.72
"""Measured peak of the stage preprocess over the tensors so counted (16.3 GiB, of which SDXL is 6.6): convolutions have
workspaces."""
VAE_ENCODE_BYTES, VAE_DECODE_BYTES = VAE_WORKSPACE * 1.41 * GIB, VAE_WORKSPACE * 1.69 * GIB
"""For one image in float32."""
VAE_ENCODE_OPERATIONS, VAE_DECODE_OPERATIONS = 2.61e12, 5.75e12
"""For one image, counted by torch."""
VAE_SHARE = 0.1
"""Assumed, not measured: the share of the bf16 rate that the VAE's float32 convolutions reach."""
RESERVE = 1.2
"""Over the sum of what is counted. Measured peaks of trainers were 0.85 to 1.17 times the sum."""


def dreambooth_figures(card: Card | None, size: int, gradient_checkpointing: bool) -> list[DreamBoothFigure]:
    """Return the figures of the measured size that is nearest in pixels, fewer people first; none if there are none."""
    figures = card.dreambooth.figures if card and card.dreambooth else ()
    same = [figure for figure in figures if figure.gradient_checkpointing == gradient_checkpointing]
    nearest = min((abs(figure.size**2 - size**2) for figure in same), default=0)
    return sorted(
        (figure for figure in same if abs(figure.size**2 - size**2) == nearest), key=lambda figure: figure.people
    )


def dreambooth_seconds(figures: Sequence[DreamBoothFigure], rows: int, size: int) -> float | None:
    """Return the seconds of one step with `rows` images in the batch.

    A step's time (people × ms) is interpolated linearly between measured counts and proportional outside of them, and
    proportional to the pixels.
    """
    if not figures:
        return None
    times = [(figure.people, figure.people * figure.ms / 1000) for figure in figures]
    pixels = size**2 / figures[0].size ** 2
    if rows < times[0][0] or rows > times[-1][0]:
        people, seconds = times[0] if rows < times[0][0] else times[-1]
        return pixels * seconds * rows / people
    return pixels * _interpolate(times, rows)


def dreambooth_bytes(figures: Sequence[DreamBoothFigure], rows: int, size: int) -> float | None:
    """Return the peak of GPU memory of one step with `rows` images in the batch, with the U-Net alone.

    Linear between measured counts, beyond them along the last two; what is above the U-Net's weights is proportional
    to the pixels.
    """
    known = [(figure.people, figure.gib * GIB) for figure in figures if figure.gib]
    if not known:
        return None
    pixels = size**2 / figures[0].size ** 2
    return UNET_BYTES + pixels * (_interpolate(known, rows) - UNET_BYTES)


def _interpolate(points: Sequence[tuple[int, float]], at: int) -> float:
    """Interpolate linearly; outside along the two nearest points."""
    if len(points) == 1:
        return points[0][1]
    right = next((i for i, (x, _) in enumerate(points) if x >= at and i), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def guided_seconds(card: Card | None, size: int) -> float | None:
    """Return the seconds of one guided denoising step of an image, proportional to the pixels."""
    step = card.guided_step if card else None
    return None if step is None else step.ms / 1000 * size**2 / step.size**2


def vae_seconds(card: Card | None, operations: float, size: int) -> float | None:
    """Return the seconds of one image through the VAE: operations / (rate × assumed share)."""
    rate = card.matrix_products if card else None
    return None if rate is None else operations * size**2 / ROW_PIXELS / (rate.tflops * 1e12 * VAE_SHARE)


def training_share(card: Card | None, measured: NetworkSize, batch: int) -> float | None:
    """Return the share of the rate that training a DiT reaches, between measured batches linear, else the nearest's.

    share = 3 × operations of a forward pass × batch / (seconds of a step × rate)

    Args:
        card: With the measured steps.
        measured: The network that they are of.
        batch: For which the share is wanted.
    """
    if not card or not card.dit_training or not card.matrix_products:
        return None
    rate = card.matrix_products.tflops * 1e12
    operations = FORWARD_AND_BACKWARD * measured.operations

    def share(figure: BatchTime) -> float:
        return operations * figure.batch / (figure.ms / 1000 * rate)

    points = [(figure.batch, share(figure)) for figure in card.dit_training.figures]
    return _interpolate(points, min(max(batch, points[0][0]), points[-1][0]))


def network_seconds(
    card: Card | None, measured: NetworkSize, network: NetworkSize, samples: int, gradient_checkpointing: bool = False
) -> float | None:
    """Return the seconds of forward and backward pass: passes × operations × samples / (rate × measured share)."""
    share = training_share(card, measured, samples)
    if share is None or card is None or card.matrix_products is None:
        return None
    passes = WITH_CHECKPOINTING if gradient_checkpointing else FORWARD_AND_BACKWARD
    return passes * network.operations * samples / (card.matrix_products.tflops * 1e12 * share)


def optimizer_seconds(card: Card | None, network: NetworkSize) -> float | None:
    """Return the seconds of AdamW, clipping and EMA, proportional to the parameters."""
    optimizer = card.optimizer if card else None
    return None if optimizer is None else optimizer.ms / 1000 * network.parameters / optimizer.parameters


def training_bytes(parameters: int, gpus: int, shard: bool, bf16: bool) -> float:
    """Return the bytes of a trained network on each GPU, without activations.

    parameters × (4 weights + 4 gradients + 8 AdamW + 4 EMA), and 2 for the weights as bfloat16. Several GPUs: DDP's
    buckets are 4 more, or with `shard` each has its share of all of this beside the whole weights.
    """
    copies, whole = 4 + 4 + 8 + 4, 2 * bf16
    if gpus > 1 and shard:
        return parameters * (4 + whole + copies / gpus)
    return parameters * (copies + whole + 4 * (gpus > 1))
