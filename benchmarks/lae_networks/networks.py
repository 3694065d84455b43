"""The compared networks of the LAE: their shapes, how each starts, and how it is trained."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.lora.canonical_form import align, canonical
from miniature.base_model.config import lora_layout
from miniature.personal.finetune import LAE_FINETUNING, FinetuneData
from training.autoencoder.config import LAETraining, LossWeights
from training.autoencoder.train import new_lae
from training.autoencoder.weight_space_objective import LAEObjective
from training.dreambooth.train import shared_start
from training.end_to_end.train import finetune_lae
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.store.loras import LoRAsInMemory

# By the ratio to the miniature's LoRAs of 105,728 values: latent, groups, chunk and codes per chunk and per module.
# Groups so that a group has well under 1,000 latents, since there are about 1,000 LoRAs to fit them to; codes so that
# they hold at least as many values as the latent.
SHAPES: dict[int, dict[str, int]] = {
    1000: {"tokens": 7, "width": 15, "groups": 1, "chunk": 2048, "conv": 56, "token": 56},
    300: {"tokens": 22, "width": 16, "groups": 1, "chunk": 2048, "conv": 56, "token": 56},
    126: {"tokens": 70, "width": 12, "groups": 2, "chunk": 2048, "conv": 112, "token": 112},
    38: {"tokens": 70, "width": 40, "groups": 5, "chunk": 1024, "conv": 128, "token": 160},
    13: {"tokens": 70, "width": 120, "groups": 14, "chunk": 512, "conv": 128, "token": 320},
}
FORMS = ("raw", "canonical", "aligned")
NETWORKS = ("conv", "conv shared", "token", "token shared", "flat", "linear")


def config_of(network: str, ratio: int) -> LAEConfig:
    """The shape of a network at a ratio of `SHAPES`."""
    shape = SHAPES[ratio]
    latent = LAEConfig(tokens=shape["tokens"], width=shape["width"])
    kind, _, shared = network.partition(" ")
    if kind == "linear":
        return replace(latent, kind="linear")
    if kind == "flat":
        return replace(latent, kind="flat", hidden=64)
    staged = replace(latent, groups=shape["groups"], channels=shape[kind], tied=True, local=not shared)
    if kind == "conv":
        return replace(staged, chunk=shape["chunk"])
    return replace(staged, kind="token", hidden=128, heads=4, blocks=2)


def settings(seed: int, steps: int, weight: float) -> LAETraining:
    """The miniature's settings, for a short run."""
    loop = TrainConfig(steps, 3e-4, warmup=steps // 10, weight_decay=0.01, ema=0.98, save_every=steps, seed=seed)
    return LAETraining(loop, losses=LossWeights(weight_preserved=weight))


def start_like(fitted: LAE, seed: int) -> LAE:
    """A new autoencoder with the fitted one's statistics and stages, and own random weights between the stages."""
    lae = new_lae(fitted.layout, fitted.config, seed)
    if fitted.config.kind == "flat":
        own = {name: value for name, value in lae.state_dict().items() if name.startswith("network.")}
    else:
        own = {name: value for name, value in lae.state_dict().items() if "_blocks." in name}
    lae.load_state_dict({**fitted.state_dict(), **own})
    return lae


def train_shortly(lae: LAE, loras: Tensor, training: LAETraining) -> float:
    """Train in place; return the seconds per step."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        objective = LAEObjective(lae, LoRAsInMemory(loras), training)
        train(lae, objective, training.loop, Path(folder), "lae")
    return (time.perf_counter() - start) / training.loop.steps


def finetune_shortly(lae: LAE, data: FinetuneData, steps: int, seed: int) -> None:
    """Train in place with the base model's diffusion loss; the weights of the best teacher recovery are kept."""
    loop = replace(LAE_FINETUNING.loop, steps=steps, warmup=steps // 10, save_every=steps, seed=seed)
    config = replace(LAE_FINETUNING, loop=loop, evaluation=replace(LAE_FINETUNING.evaluation, interval=steps // 2))
    loras, images = LoRAsInMemory(data.loras), [data.images[index] for index in data.people]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        finetune_lae(lae, loras, images, data.validation, data.diffusion_loss, data.recovery, config, path, "lae")


def in_form(form: str, loras: Tensor) -> Tensor:
    """Other factors of the same ΔW: LoRAs (people, numel) in one of `FORMS`."""
    layout = lora_layout()
    if form == "raw":
        return loras
    factors = canonical(loras, layout)
    return factors if form == "canonical" else align(factors, shared_start(layout), layout)
