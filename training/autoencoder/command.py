"""Train the LoRA autoencoder on a store of LoRAs, into one file.

python -m training train-lae --config training/configs/lae_miniature.yaml
accelerate launch -m training train-lae --config training/configs/lae_sdxl_conv_4x24gb.yaml
"""

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from difflora_core.autoencoder.lae_file import save_lae
from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.library_logs import silence_library_logs
from difflora_core.lora.layout import LoRALayout
from training.engine.loop import open_accelerator
from training.engine.rounds import Figures
from training.engine.settings import read_settings
from training.engine.step_cost import measure
from training.people.diffusion_loss_check import DiffusionLossCheck, DiffusionLossCheckSettings
from training.store.lora_store import Person
from training.store.loras import LoRAs, open_loras, open_stores, people_of
from training.store.rows import BYTES

from .train import LAEObjective, LAETraining, Reconstruct, new_lae, train_lae

RUN, RESULT = "run", "lae.safetensors"
"""In the output folder: where a run's state, log and TensorBoard files lie, and the autoencoder that comes out."""


@dataclass(frozen=True)
class LayoutSettings:
    """Which layers LoRAs change: rank, and whether the feed-forward layers are among them. unet: the configuration of a
    diffusers U-Net (config.json); None is SDXL's.
    """

    rank: int = 4
    feed_forward: bool = False
    unet: Path | None = None

    def layout(self) -> LoRALayout:
        """The layout. Raises FileNotFoundError if there is no such file."""
        if self.unet is None:
            return LoRALayout.sdxl(self.rank, self.feed_forward)
        if not self.unet.is_file():
            raise FileNotFoundError(f"there is no {self.unet}: layout.unet names the config.json of a diffusers U-Net")
        unet = json.loads(self.unet.read_text(encoding="utf-8"))
        return LoRALayout.from_unet_config(unet, self.rank, self.feed_forward)


@dataclass(frozen=True)
class LAESettings:
    """Everything that a run takes.

    stores: of LoRAs, all of one layout, with the splits train and validation. output: folder of the run; the result is
    output/lae.safetensors. layout: what the stores have to hold; None is whatever they hold. pictures: validation by
    the base model's loss, see `picture_check`; None is without. in_memory_gb: a split that takes no more is read once,
    a larger one batch by batch.
    """

    stores: tuple[Path, ...]
    output: Path
    lae: LAEConfig = field(default_factory=LAEConfig)
    training: LAETraining = field(default_factory=LAETraining)
    layout: LayoutSettings | None = None
    pictures: DiffusionLossCheckSettings | None = None
    in_memory_gb: float = 8.0

    def __post_init__(self) -> None:
        if self.training.monitor == "teacher_recovery" and self.pictures is None:
            raise ValueError("training.monitor is teacher_recovery, which needs the section `pictures`; found none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see training/configs/lae_*.yaml")
    parser.add_argument("--dry-run", action="store_true", help="only print sizes, memory and measured speed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    settings = read_settings(LAESettings, arguments.config)
    if arguments.dry_run:
        print(dry_run(settings))
    else:
        train_from_store(settings)


def train_from_store(settings: LAESettings) -> Path:
    """Train as the settings say, or go on where a run was ended; the file, written by the first process.

    Raises:
        FileNotFoundError: a store, a split or a file is missing; the message says what makes it.
        ValueError: what is there doesn't fit together, or a LoRA is not finite or zero.
    """
    stores = open_stores(settings.stores, settings.layout.layout() if settings.layout else None)
    layout = stores[0].layout
    training, validation = (open_loras(stores, split, 1e9 * settings.in_memory_gb) for split in ("train", "validation"))
    loop = settings.training.loop
    device = open_accelerator(replace(loop, log_with=()), settings.output / RUN, "lae").device
    told: dict[str, Figures] = {}

    def report(name: str, figures: Figures) -> None:
        told[name] = figures
        step = int(name.removeprefix("step ")) if name != "start" else 0
        batch = settings.training.batch * loop.accumulate * PartialState().num_processes
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"  {name} (epoch {step * batch / len(training):.1f}): {line}", flush=True)

    look = None
    if settings.pictures and PartialState().is_main_process:
        look = Look(settings.pictures, people_of(stores, "validation"), validation, str(device))
    lae = train_lae(training, validation, layout, settings.lae, settings.training, settings.output / RUN, report, look)
    path = settings.output / RESULT
    if PartialState().is_main_process:
        provenance = {
            "people": len(training),
            "validation_people": len(validation),
            "date": datetime.date.today().isoformat(),
            "training": json.loads(json.dumps(asdict(settings.training))),
            "rounds": told,
        }
        save_lae(path, lae, provenance)
        print(f"wrote {path}", flush=True)
    return path


class Look:
    """Validation people's LoRAs through the autoencoder, judged by the loss of the base model on their own held-out
    pictures, every so many rounds and at the start. The base model is loaded at the first look.
    """

    def __init__(
        self, settings: DiffusionLossCheckSettings, people: Sequence[Person], loras: LoRAs, device: str
    ) -> None:
        self.settings, self.people, self.loras, self.device = settings, people, loras, device
        self.check: DiffusionLossCheck | None = None
        self.teachers = torch.empty(0)

    @torch.no_grad()
    def __call__(self, lae: LAE, number: int) -> Figures:
        """Losses with the reconstructions beside the teachers'; `teacher_recovery` is the share that is kept."""
        if number % self.settings.every:
            return {}
        if self.check is None:
            silence_library_logs()
            self.check = DiffusionLossCheck.open(self.settings, lae.layout, self.people, self.device)
            self.teachers = self.loras.read(self.check.rows)
        rebuilt = [lae.decode(lae.encode(lora[None].to(lae.mean.device))).float().cpu() for lora in self.teachers]
        return self.check.figures(torch.cat(rebuilt), self.teachers)


class RandomLoRAs:
    """LoRAs for measuring: two random ones, handed out as often as wanted."""

    def __init__(self, numel: int, count: int) -> None:
        self.pair, self.count = torch.randn(2, numel, generator=torch.Generator().manual_seed(0)), count

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int]) -> Tensor:
        return self.pair[[row % 2 for row in rows]]

    def columns(self, start: int, stop: int) -> Tensor:
        return self.pair[:, start:stop]


def lora_copies(layout: LoRALayout, batch: int) -> dict[str, int]:
    """Bytes that a batch of LoRAs takes on the device beside what the backward pass keeps: as read, normalized, and
    what a blend adds.
    """
    return {"batch": 3 * BYTES * batch * layout.numel}


def dry_run(settings: LAESettings) -> str:
    """Sizes, memory and measured speed with random LoRAs; needs no store if the settings say the layout."""
    layout = settings.layout.layout() if settings.layout else open_stores(settings.stores)[0].layout
    training, shape = settings.training, f"{settings.lae.tokens} × {settings.lae.width}"
    lae = new_lae(layout, settings.lae, training.loop.seed)
    loss = LAEObjective(lae, RandomLoRAs(layout.numel, training.batch), training)
    cost = measure(Reconstruct(lae), loss, training.loop, training.batch, lora_copies(layout, training.batch))
    latent = settings.lae.tokens * settings.lae.width
    return "\n".join(
        [
            f"LoRA         {len(layout.modules)} modules, rank {layout.rank}: {layout.numel:,} numbers",
            f"autoencoder  {settings.lae.kind}, latent {shape} = {latent:,} numbers",
            f"compression  {layout.numel / latent:.1f} : 1 by the latent alone, {lae.compression_ratio:.1f} : 1 with "
            "all side numbers (there are none: a LoRA's scale is in its latent)",
            str(cost),
        ]
    )
