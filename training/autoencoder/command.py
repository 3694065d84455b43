"""Train the LoRA autoencoder on a store of LoRAs, into one file.

python -m training train-lae --config training/recipes/miniature/2_train_lae.yaml
accelerate launch -m training train-lae --config training/recipes/sdxl-4x24gb/2_train_lae.yaml
"""

from pathlib import Path

from difflora_core.autoencoder.lae_file import save_lae
from training.engine.accelerator import close_trackers, open_accelerator
from training.engine.evaluated_run import describe_run
from training.people.diffusion_loss_check import DiffusionLossCheck
from training.store.loras import digest_of_people, open_loras, open_stores, people_of
from training.trainer_command import TrainerCommand

from .lae_dry_run import dry_run
from .settings import LAESettings
from .train import train_lae

RUN, RESULT = "run", "lae.safetensors"
"""In the output folder: the run's state, log and TensorBoard files, and the autoencoder."""


def train_from_store(settings: LAESettings) -> Path:
    """Train as the settings say, or resume; return the file, which the first process writes.

    Raises:
        FileNotFoundError: A store, a split or a file is missing; the message says what makes it.
        ValueError: The parts don't fit together, or a LoRA is not finite or zero.
    """
    stores = open_stores(settings.stores, settings.layout.layout() if settings.layout else None)
    layout, folder = stores[0].layout, settings.output / RUN
    training, validation = (open_loras(stores, split, 1e9 * settings.in_memory_gb) for split in ("train", "validation"))
    accelerator = open_accelerator(settings.training.loop, folder, "lae")
    check, compared = None, people_of(stores, "validation")
    identity = {"people (hash)": digest_of_people([*people_of(stores, "train"), *compared])}
    if settings.diffusion_loss_check and accelerator.is_main_process:
        check = DiffusionLossCheck(settings.diffusion_loss_check, layout, compared, validation, accelerator.device)
    lae, history = train_lae(
        training, validation, layout, settings.lae, settings.training, folder, accelerator, check, identity
    )
    close_trackers(accelerator)
    path = settings.output / RESULT
    if accelerator.is_main_process:
        save_lae(path, lae, describe_run(len(training), len(validation), settings.training, history))
        print(f"wrote {path}", flush=True)
    return path


COMMAND = TrainerCommand(LAESettings, "training/recipes/*/2_train_lae.yaml", dry_run, train_from_store)
add_arguments = COMMAND.add_arguments
