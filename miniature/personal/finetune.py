"""End-to-end training of stage `difflora` by the base model's diffusion loss: LAE, then MIF and DiT.

Several processes share the work. What they agree on is read from files that the stage wrote before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import lora_layout
from miniature.base_model.model import TinySDXL, Tokenizer
from miniature.base_model.train import LittleNoise, PlaceWeights
from miniature.world.drawing import REFERENCES
from training.base_model.lora_diffusion_loss import LoRADiffusionLoss
from training.base_model.person_images import PersonImages
from training.base_model.teacher_recovery import TeacherRecovery
from training.end_to_end.config import DenoiserFinetuning, LAEFinetuning
from training.end_to_end.objectives import FinetuneDataset
from training.end_to_end.train import finetune_denoiser, finetune_lae
from training.engine.config import EvaluationConfig, TrainConfig
from training.engine.evaluated_run import History, load_best_of_run
from training.engine.processes import in_processes
from training.people.conditions import Conditions
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsInMemory, in_batches

from .embeddings import load_conditions, load_conditions_of
from .person_images import PERSON_EYES, diffusion_loss, draw_person_images, training_person_images

LAE_FINETUNING = LAEFinetuning(
    TrainConfig(steps=1500, learning_rate=3e-4, warmup=30, ema=0.98, save_every=100),
    EvaluationConfig(interval=300, monitor="teacher_recovery"),
    people=16,
)
DENOISER_FINETUNING = DenoiserFinetuning(
    TrainConfig(
        steps=2000, learning_rate=5e-4, warmup=50, weight_decay=0.02, ema=0.99, save_every=100, unused_parameters=True
    ),
    EvaluationConfig(interval=200, monitor="teacher_recovery"),
    people=16,
)
LAE_RUN, DENOISER_RUN = "lae_finetuning", "difflora_finetuning"
"""Names of the runs in the build folder."""


@dataclass(frozen=True)
class FinetuneData:
    """What all runs need."""

    loras: Tensor
    """Training people's teachers (people, numel)."""
    people: list[int]
    """Those training people."""
    images: dict[int, PersonImages]
    """Of all training people."""
    validation: Tensor
    """Validation people's teachers (people, numel)."""
    base: TinySDXL
    """Frozen."""
    diffusion_loss: LoRADiffusionLoss
    """Through the base model."""
    recovery: TeacherRecovery
    """Of the validation people."""

    @classmethod
    def load(
        cls,
        build: Path,
        weights: Path,
        tokenizer: Path,
        places: PlaceWeights = PERSON_EYES,
        little_noise: LittleNoise | None = None,
    ) -> Self:
        """Load the teachers and the base model, and draw the validation people's images.

        Args:
            build: Scratch folder.
            weights: Folder of what ships.
            tokenizer: Folder of CLIP's tokenizer.
            places: What places of images weigh, in teacher recovery, too: else it would not say which weights are best.
            little_noise: Of timesteps, for the same.
        """
        store = LoRAStore(build / "teachers", lora_layout())
        loras, people = store.read("train")
        validation, validation_people = store.read("validation")
        base, vae = load_checkpoint(weights)
        base.requires_grad_(False)
        loss = diffusion_loss(base, Tokenizer(tokenizer), little_noise=little_noise)
        recovery = TeacherRecovery(loss, draw_person_images(vae, validation_people, places), validation)
        return cls(loras, people, training_person_images(build, places), validation, base, loss, recovery)


def finetune_lae_in_processes(lae: LAE, build: Path, weights: Path, tokenizer: Path, processes: int) -> History:
    """Fine-tune an autoencoder in place; resumable in build/lae_finetuning*.safetensors.

    Args:
        lae: The autoencoder; its latents are standardized anew.
        build: Scratch folder.
        weights: Folder of what ships.
        tokenizer: Folder of CLIP's tokenizer.
        processes: How many share the work.

    Returns:
        Teacher recovery before, and at every evaluation.
    """
    in_processes(_finetune_lae, processes, lae, build, weights, tokenizer)
    history = load_best_of_run(lae, build, LAE_RUN)
    loras = LoRAsInMemory(LoRAStore(build / "teachers", lora_layout()).read("train")[0])
    lae.fit_latents(in_batches(loras))
    return history


def _finetune_lae(_rank: int, _processes: int, lae: LAE, build: Path, weights: Path, tokenizer: Path) -> None:
    data = FinetuneData.load(build, weights, tokenizer)
    loras, images = LoRAsInMemory(data.loras), [data.images[index] for index in data.people]
    finetune_lae(
        lae, loras, images, data.validation, data.diffusion_loss, data.recovery, LAE_FINETUNING, build, LAE_RUN
    )


def finetune_denoiser_in_processes(
    denoiser: Denoiser, lae: LAE, build: Path, weights: Path, tokenizer: Path, processes: int
) -> History:
    """Fine-tune MIF and DiT in place; resumable in build/difflora_finetuning*.safetensors.

    Args:
        denoiser: MIF and DiT.
        lae: Frozen.
        build: Scratch folder.
        weights: Folder of what ships.
        tokenizer: Folder of CLIP's tokenizer.
        processes: How many share the work.

    Returns:
        Teacher recovery before, and at every evaluation.
    """
    in_processes(_finetune_denoiser, processes, denoiser, lae, build, weights, tokenizer)
    return load_best_of_run(denoiser, build, DENOISER_RUN)


def _finetune_denoiser(
    _rank: int, _processes: int, denoiser: Denoiser, lae: LAE, build: Path, weights: Path, tokenizer: Path
) -> None:
    data = FinetuneData.load(build, weights, tokenizer)
    lae.eval().requires_grad_(False)
    conditions, rows = load_everybody(build)
    dataset = FinetuneDataset(
        conditions,
        [data.images[index] for index in rows],
        torch.tensor([rows[index] for index in data.people]),
        lae.encode(data.loras),
    )
    finetune_denoiser(
        denoiser,
        lae,
        dataset,
        load_references(build),
        data.diffusion_loss,
        data.recovery,
        DENOISER_FINETUNING,
        build,
        DENOISER_RUN,
    )


def load_everybody(build: Path) -> tuple[Conditions, dict[int, int]]:
    """Read the embeddings of all training people, and each person's row of them."""
    conditions, people = load_conditions(build / "conditions" / "all_people.safetensors")
    return conditions, {index: row for row, index in enumerate(people.tolist())}


def load_references(build: Path) -> tuple[Tensor, Tensor]:
    """Read face and image embeddings (people, width) of the validation people who have a teacher."""
    people = LoRAStore(build / "teachers", lora_layout()).read("validation")[1]
    return load_conditions_of(build / "conditions" / "validation.safetensors", people).first(REFERENCES)
