"""What the dataset's stages, and the embeddings of its images, will cost."""

from collections.abc import Callable, Mapping, Sequence

from training.lora_dataset.config import DatasetConfig

from .cards import DreamBoothFigure
from .plan_row import FACE_WIDTH, IMAGE_WIDTH, PlanRow, Situation, add, milliseconds, times
from .scaling import (
    GIB,
    PHOTOMAKER_BYTES,
    ROW_PIXELS,
    UNET_ROW_BYTES,
    VAE_DECODE_BYTES,
    VAE_DECODE_OPERATIONS,
    VAE_ENCODE_BYTES,
    VAE_ENCODE_OPERATIONS,
    VAE_SHARE,
    dreambooth_bytes,
    dreambooth_figures,
    dreambooth_seconds,
    guided_seconds,
    vae_seconds,
)

BYTES_PER_PIXEL = 1.5
"""Of a PNG of a photograph, roughly."""
LATENT_CHANNELS, PIXELS_PER_LATENT, FLOAT16_BYTES, FLOAT32_BYTES = 4, 8, 2, 4
TEXT_BYTES = FLOAT16_BYTES * (77 * 2048 + 1280)
"""Of a caption's embeddings by SDXL's text encoders in bf16."""
VERIFY_BATCH = 4
"""Images that verify generates at once; they are decoded one by one."""
STAGE_OFFSET_GIB = 4.0
"""Of the stage dreambooth over the U-Net alone with the same batch: 10.4 measured in the stage, 6.4 with the U-Net
alone. It has the text encoders, the VAE, images and captions beside it."""
CLIP_GIB = 1.2
"""CLIP ViT-L/14 in float32, without its activations; counted."""


def dataset_rows(config: DatasetConfig, at: Situation, stages: Sequence[str]) -> list[PlanRow]:
    """Return a row for each of some stages."""
    return [STAGES[stage](config, at) for stage in stages]


def collected_images(config: DatasetConfig, at: Situation) -> int:
    """Return how many images the user brings, at most; without a limit one per person is counted."""
    return at.people * (1 if config.collect.source == "images" else max(1, config.collect.max_images))


def training_images(config: DatasetConfig, at: Situation) -> int:
    """Return how many images filter and preprocess see, at most."""
    return at.people * config.generate.images if config.generate.enabled else collected_images(config, at)


def png_bytes(images: int, size: int) -> float:
    """Return the bytes of PNG files on disk."""
    return images * size**2 * BYTES_PER_PIXEL


def _collect(config: DatasetConfig, at: Situation) -> PlanRow:
    images = collected_images(config, at)
    size = config.generate.size if config.generate.enabled else config.preprocess.size
    seconds, note = _face_seconds(at, images)
    return PlanRow("collect", images, png_bytes(images, size), None, seconds, f"{note}; disk as if {size} px large")


def _face_seconds(at: Situation, images: int) -> tuple[float | None, str]:
    encoders = at.card.encoders if at.card else None
    if encoders is None:
        return None, "hours not measured"
    note = f"face models {encoders.face_ms:.3g} ms an image, one process; reading images is not counted"
    return images * encoders.face_ms / 1000, note


def _generate(config: DatasetConfig, at: Situation) -> PlanRow:
    settings = config.generate
    if not settings.enabled:
        return PlanRow("generate", 0, 0, None, 0, "off: the collected images are passed on")
    images, guided = at.people * settings.images, settings.guidance_scale > 1
    seconds, note = generation_seconds(at, images, settings.size, settings.steps, guided)
    memory = add(generation_bytes(at, settings.batch, settings.size, guided), PHOTOMAKER_BYTES)
    return PlanRow("generate", images, png_bytes(images, settings.size), memory, seconds, note)


def generation_seconds(at: Situation, images: int, size: int, steps: int, guided: bool) -> tuple[float | None, str]:
    """Return the seconds of images: steps × a guided step (half without guidance), and the VAE; and a note."""
    step, decode = guided_seconds(at.card, size), vae_seconds(at.card, VAE_DECODE_OPERATIONS, size)
    seconds = add(times(steps * (1.0 if guided else 0.5), step), decode if at.sdxl else 0.0)
    if seconds is None or step is None:
        return None, "hours not measured"
    note = f"{steps} steps × {milliseconds(step)} an image, measured step"
    if at.sdxl:
        note += f"; VAE assumed at {VAE_SHARE:g} of the rate"
    return images * seconds / at.processes, f"{note}; memory by arithmetic" if at.gpus else note


def generation_bytes(at: Situation, batch: int, size: int, guided: bool) -> float | None:
    """Return the peak of GPU memory: the base model, and the U-Net with a batch or the VAE with one image."""
    rows = batch * (2 if guided else 1)
    return add(at.base_bytes, size**2 / ROW_PIXELS * max(rows * UNET_ROW_BYTES, VAE_DECODE_BYTES))


def _filter(config: DatasetConfig, at: Situation) -> PlanRow:
    images = training_images(config, at)
    seconds, note = _face_seconds(at, images)
    return PlanRow("filter", images, 0, None, seconds, note)


def _preprocess(config: DatasetConfig, at: Situation) -> PlanRow:
    settings, images = config.preprocess, training_images(config, at)
    if settings.max_images:
        images = min(images, at.people * settings.max_images)
    values = LATENT_CHANNELS * (settings.size // PIXELS_PER_LATENT) ** 2
    captions = config.generate.images if config.generate.enabled else 1  # all people have the same prompts
    disk = images * FLOAT16_BYTES * values + captions * TEXT_BYTES
    measured = at.card.step("preprocess", 0, settings.batch, settings.size) if at.card else None
    memory = add(at.base_bytes, settings.batch * settings.size**2 / ROW_PIXELS * VAE_ENCODE_BYTES)
    if measured and measured.gib:
        memory = measured.gib * GIB
    each = vae_seconds(at.card, VAE_ENCODE_OPERATIONS, settings.size) if at.sdxl else None
    note = "hours not measured"
    if each is not None:
        note = f"{milliseconds(each)} an image: VAE assumed at {VAE_SHARE:g} of the rate; memory from a measured peak"
    return PlanRow("preprocess", images, disk, memory, times(images / at.processes, each), note)


def _dreambooth(config: DatasetConfig, at: Situation) -> PlanRow:
    settings, size = config.dreambooth, config.preprocess.size
    rows = settings.people * settings.images_per_person * (2 if settings.prior_weight else 1)
    figures = dreambooth_figures(at.card, size, settings.gradient_checkpointing)
    step = dreambooth_seconds(figures, rows, size)
    memory = add(dreambooth_bytes(figures, rows, size), STAGE_OFFSET_GIB * GIB) if at.base_bytes else None
    disk = _lora_bytes(at)
    images = max(0, training_images(config, at) - at.people * config.preprocess.held_out)
    if step is None:
        return PlanRow("dreambooth", images, disk, memory, None, "hours not measured")
    each = step / settings.people
    known = any(figure.people == rows and figure.size == size for figure in figures)
    note = (
        f"{at.people:,} people × {settings.steps} steps × {milliseconds(each)} in batches of {settings.people}, "
        f"{'measured' if known else f'from {_describe(figures)}'}"
    )
    if memory is not None:
        note += f"; memory: the U-Net's and {STAGE_OFFSET_GIB:g} GiB"
    return PlanRow("dreambooth", images, disk, memory, at.people * settings.steps * each / at.processes, note)


def _describe(figures: Sequence[DreamBoothFigure]) -> str:
    counts = sorted(figure.people for figure in figures)
    return f"batches of {counts[0]} to {counts[-1]} measured at {figures[0].size} px"


def _lora_bytes(at: Situation) -> int | None:
    return at.people * FLOAT32_BYTES * at.lora.values if at.lora else None


def _pack(config: DatasetConfig, at: Situation) -> PlanRow:
    disk = _lora_bytes(at)
    note = f"rank {config.dreambooth.rank}: {at.lora.values:,} values, counted" if at.lora else ""
    return PlanRow("pack", None, disk, None, None, f"{note}; hours not measured: the disk's".removeprefix("; "))


def _verify(config: DatasetConfig, at: Situation) -> PlanRow:
    settings, size = config.verify, config.preprocess.size
    images = 2 * min(settings.people, at.people) * settings.images  # with each LoRA, and without
    guided = settings.guidance_scale > 1
    seconds, note = generation_seconds(at, images, size, settings.steps, guided)
    memory = generation_bytes(at, min(VERIFY_BATCH, settings.images), size, guided)
    return PlanRow("verify", images, png_bytes(images, size), memory, seconds, note)


STAGES: Mapping[str, Callable[[DatasetConfig, Situation], PlanRow]] = {
    "collect": _collect,
    "generate": _generate,
    "filter": _filter,
    "preprocess": _preprocess,
    "dreambooth": _dreambooth,
    "pack": _pack,
    "verify": _verify,
}
"""In the pipeline's order."""


def embed_row(config: DatasetConfig, at: Situation) -> PlanRow:
    """Return the row of `embed`."""
    images = training_images(config, at)
    encoders = at.card.encoders if at.card else None
    disk = images * FLOAT32_BYTES * (FACE_WIDTH + IMAGE_WIDTH)
    memory = CLIP_GIB * GIB if at.gpus and at.sdxl else None
    if encoders is None:
        return PlanRow("embed", images, disk, memory, None, "hours not measured")
    each = encoders.face_ms + encoders.image_encoder_ms
    note = f"encoders {each:.3g} ms an image, one process; reading images is not counted"
    return PlanRow("embed", images, disk, memory, images * each / 1000, note)
