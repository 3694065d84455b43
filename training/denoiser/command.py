"""Train MIF and DiT on a store of LoRAs, a frozen LAE and people's embeddings, into one DiffLoRA checkpoint.

python -m training train-difflora --config training/configs/difflora_miniature.yaml
accelerate launch -m training train-difflora --config training/configs/difflora_sdxl_paper.yaml
"""

import argparse
import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA, DiffLoRAConfig
from training.engine.loop import open_accelerator
from training.engine.rounds import Figures
from training.engine.settings import read_settings
from training.people.conditions import Conditions, People, draw_references
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.people.latents import check_layout, digest, open_lae
from training.store.lora_store import Person
from training.store.loras import open_stores

from .data import open_embeddings, people_of
from .settings import DiffLoRASettings
from .train import DiffLoRATraining, train_denoiser
from .validation import predict_latents, validate

__all__ = ["Conditions", "Denoiser", "DiffLoRATraining", "People", "draw_references", "train_denoiser", "validate"]

RUN, RESULT = "run", "difflora.safetensors"
"""In the output folder: where a run's state lies, and the checkpoint that comes out."""
NOT_COMPARED = ("device", "save_every", "log_with", "compile", "shard")
"""Of the loop's settings: what a resumed run may have otherwise."""
ONE_SHOT = SamplingConfig(steps=1, guidance_scale=1.0, scheduler="ddim", samples=1)
"""How a regression is sampled; see `new_denoiser`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see training/configs/difflora_*.yaml")
    parser.add_argument("--dry-run", action="store_true", help="only print parameters, memory and measured speed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    settings = read_settings(DiffLoRASettings, arguments.config)
    if arguments.dry_run:
        from .dry_run import dry_run

        print(dry_run(settings))
    else:
        train_difflora(settings)


def train_difflora(settings: DiffLoRASettings) -> Path:
    """Train as the settings say, or go on where a run was ended; the checkpoint, written by the first process.

    Raises:
        FileNotFoundError: a store, a split, an LAE or embeddings are missing; the message says what makes them.
        ValueError: what is there doesn't fit together.
    """
    loop, folder = settings.training.loop, settings.output / RUN
    accelerator = open_accelerator(replace(loop, log_with=()), folder, "difflora")
    device, first = str(accelerator.device), accelerator.is_main_process
    lae = open_lae(settings.lae)
    stores = open_stores(settings.stores)
    check_layout(stores, lae)
    cache = open_embeddings(settings, accelerator)
    with accelerator.main_process_first():  # the others read the latents that the first one has written
        training, validation = (
            people_of(stores, split, lae, cache, settings.embeddings.allow_missing, folder, device)
            for split in ("train", "validation")
        )
    dit, mif = settings.networks(lae, cache.widths)
    look = Look(settings, lae, *validation, device) if settings.pictures and first else None
    told: dict[str, Figures] = {}

    def report(name: str, figures: Figures) -> None:
        told[name] = figures
        seen = int(name.removeprefix("step ")) * settings.training.batch * loop.accumulate * accelerator.num_processes
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"  {name} (epoch {seen / len(training[1]):.1f}): {line}", flush=True)

    identity = identify(settings, lae, training[1])
    denoiser = train_denoiser(
        training[0], validation[0], dit, mif, settings.training, folder, report, lae, look, identity
    )
    path = settings.output / RESULT
    if first:
        provenance = {
            "people": len(training[1]),
            "validation_people": len(validation[1]),
            "date": datetime.date.today().isoformat(),
            "training": json.loads(json.dumps(asdict(settings.training))),
            "rounds": told,
        }
        sampling = settings.sampling if settings.training.objective == "diffusion" else ONE_SHOT
        config = DiffLoRAConfig(lae.config, dit, mif, settings.encoders, sampling, provenance)
        assemble(lae, denoiser, config).save(path)
        print(f"wrote {path}", flush=True)
    return path


class Look:
    """Figures by pictures of validation people, every so many rounds. What it needs is loaded at the first look."""

    def __init__(
        self, settings: DiffLoRASettings, lae: LAE, validation: People, names: list[Person], device: str
    ) -> None:
        assert settings.pictures is not None
        assert validation.loras is not None
        self.settings, self.references = settings.pictures, settings.training.validation_references
        self.lae, self.validation, self.device = lae, validation, device
        self.names, self.teachers = names[: len(validation.loras)], validation.loras
        self.check: DiffusionLossCheck | None = None

    def __call__(self, model: Denoiser, number: int) -> Figures:
        """Loss with the LoRAs of the latents that validation predicts, beside the teachers'."""
        if number % self.settings.every:
            return {}
        if self.check is None:
            self.check = DiffusionLossCheck.open(self.settings, self.lae.layout, self.names, self.device)
        rows = self.check.rows
        latents = predict_latents(model, self.validation, self.references)[rows]
        loras = self.lae.to(latents.device).decode(latents).cpu()
        return self.check.figures(loras, self.teachers[rows])


def identify(settings: DiffLoRASettings, lae: LAE, people: list[Person]) -> Mapping[str, Any]:
    """What a run can't be resumed without: another network, loss, LAE or other people make another run."""
    training = asdict(settings.training)
    loop = {name: value for name, value in training.pop("loop").items() if name not in NOT_COMPARED}
    training.pop("patience")
    return {
        "dit": asdict(settings.dit),
        "mif": asdict(settings.mif),
        "training": training | {"loop": loop},
        "lae": digest(lae)[:16],
        "people": hashlib.sha256("\n".join(map(str, people)).encode()).hexdigest()[:16],
    }


def assemble(lae: LAE, denoiser: Denoiser, config: DiffLoRAConfig) -> DiffLoRA:
    """One model of the three networks."""
    model = DiffLoRA(lae.layout, config)
    model.lae.load_state_dict(lae.state_dict())
    model.dit.load_state_dict(denoiser.dit.state_dict())
    model.mif.load_state_dict(denoiser.mif.state_dict())
    return model.eval().requires_grad_(False)
