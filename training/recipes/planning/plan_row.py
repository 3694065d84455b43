"""A row of a plan, and what all rows are computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.denoiser.config import CONFIGURATIONS, MIFConfig
from training.autoencoder.settings import LAESettings
from training.denoiser.settings import DiffLoRASettings
from training.end_to_end.settings import JointSettings
from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.people.network_settings import LayoutSettings, denoiser_shapes
from training.recipes.recipe import Recipe

from .cards import Card
from .network_sizes import SDXL_UNET, LoRASize, NetworkSize, denoiser_size, lae_size, lora_size
from .scaling import SDXL_BYTES

FACE_WIDTH, IMAGE_WIDTH = 512, 768
"""Of embeddings by InsightFace's packs and by CLIP ViT-L/14, where the settings don't say."""


@dataclass(frozen=True)
class PlanRow:
    """One step, or one stage of the dataset. None is not known."""

    name: str
    """Of the step."""
    images: int | None = None
    """That it reads or makes."""
    disk: float | None = None
    """Bytes that it leaves."""
    memory: float | None = None
    """Bytes at most on each GPU."""
    seconds: float | None = None
    """From begin to end, with all GPUs."""
    note: str = ""
    """What the figures rest on."""
    step: int = 0
    """Number of the step in its recipe, from 1; 0 is of no step."""

    @property
    def title(self) -> str:
        """How the table and messages call it: number and name."""
        return f"{self.step} {self.name}" if self.step else self.name


@dataclass(frozen=True)
class Situation:
    """What all rows depend on."""

    people: int
    """Of the dataset."""
    gpus: int
    """That share the work; 0 is a CPU."""
    card: Card | None
    """What was measured; None is nothing."""
    lora: LoRASize | None
    """None: the base model's configuration is not there."""
    lae: NetworkSize | None
    """None: not counted, see `lae_size`."""
    denoiser: NetworkSize | None
    """MIF and DiT; None: the recipe trains none."""
    latent_values: int
    """Of the LAE's latent; 0 is not known."""
    sdxl: bool
    """Whether the base model is SDXL, whose memory is known."""

    @property
    def processes(self) -> int:
        """At least one."""
        return max(1, self.gpus)

    @property
    def base_bytes(self) -> float | None:
        """Of the frozen base model on a GPU."""
        return SDXL_BYTES if self.sdxl and self.gpus else None

    @property
    def measured_dit(self) -> NetworkSize | None:
        """The network of the card's DiT steps."""
        if self.card is None or self.card.dit_training is None:
            return None
        dit = CONFIGURATIONS[self.card.dit_training.dit]
        return denoiser_size(dit, MIFConfig(FACE_WIDTH, IMAGE_WIDTH, dit.condition_width))


def add(*parts: float | None) -> float | None:
    """Sum; None if a part is not known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def milliseconds(seconds: float) -> str:
    """Format a time."""
    count = 1000 * seconds
    return f"{count:,.0f} ms" if count >= 100 else f"{count:.3g} ms"


def times(factor: float, value: float | None) -> float | None:
    """Multiply; None if the value is not known."""
    return None if value is None else factor * value


def situation(recipe: Recipe, people: int, gpus: int, card: Card | None) -> Situation:
    """Read from the recipe's settings what all rows depend on."""
    trainers = [read_settings(LAESettings, step.settings) for step in recipe.steps if step.command == "train-lae"]
    alone = [
        read_settings(JointSettings, step.settings) for step in recipe.steps if step.command == "train-teacher-free"
    ]
    lae = trainers[0] if trainers else None
    layout = lae.layout if lae else alone[0].layout if alone else None
    unet, known = _unet(layout)
    lora = _lora_size(recipe, layout, unet) if known else None
    latent = lae.lae if lae else alone[0].lae if alone else None
    network = lae_size(latent, lora) if latent and lora else None
    denoiser, values = _denoiser(recipe, latent)
    return Situation(people, gpus, card, lora, network, denoiser, values, sdxl=known and _is_sdxl(unet))


def _unet(layout: LayoutSettings | None) -> tuple[Mapping[str, Any] | None, bool]:
    """Read the U-Net's configuration, None for SDXL's; and whether it is there."""
    if layout is None:
        return None, True
    try:
        return layout.unet_config(), True
    except FileNotFoundError:
        return None, False


def _is_sdxl(unet: Mapping[str, Any] | None) -> bool:
    return unet is None or all(unet.get(name) == value for name, value in SDXL_UNET.items())


def _lora_size(recipe: Recipe, layout: LayoutSettings | None, unet: Mapping[str, Any] | None) -> LoRASize:
    """Count the values of the dataset's LoRAs."""
    datasets = [load_config(step.settings) for step in recipe.steps if step.is_dataset]
    if datasets:
        return lora_size(datasets[0].dreambooth.rank, datasets[0].dreambooth.feed_forward, unet)
    if layout:
        return lora_size(layout.rank, layout.feed_forward, unet)
    return lora_size(4, False, unet)


def _denoiser(recipe: Recipe, lae: LAEConfig | None) -> tuple[NetworkSize | None, int]:
    """Count MIF and DiT, and the values of a latent."""
    kinds: dict[str, type[DiffLoRASettings | JointSettings]]
    kinds = {"train-difflora": DiffLoRASettings, "train-teacher-free": JointSettings}
    for step in recipe.steps:
        if step.command in kinds:
            settings = read_settings(kinds[step.command], step.settings)
            widths = settings.mif.face_width or FACE_WIDTH, settings.mif.image_width or IMAGE_WIDTH
            dit, mif = denoiser_shapes(settings.dit, settings.mif, None, widths)
            if lae is not None:
                dit = replace(dit, tokens=lae.tokens, latent_width=lae.width)
            size = denoiser_size(dit, MIFConfig(*widths, mif.width))
            return size, dit.tokens * dit.latent_width
    return None, 0
