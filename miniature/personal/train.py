"""Stages `difflora` and `held_out`: LAE, MIF and DiT on the miniature's teachers, and what is compared with them.

Everything that is chosen (sampling defaults) is chosen on validation people.
"""

from __future__ import annotations

import datetime
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from difflora_core.autoencoder.model import LAEConfig
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.dit import CONFIGURATIONS
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.model import DiffLoRA, DiffLoRAConfig, EncoderNames
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.model import BaseModel, Tokenizer
from miniature.base_model.vae import TinyVAE
from miniature.measure.evaluation import face_similarity, make_pictures, prompt_fidelity
from miniature.world.drawing import draw
from miniature.world.image_blocks import BASE_PEOPLE, BASE_PICTURES
from miniature.world.people import Scene, person, reference_scene
from training.autoencoder.train import LAETraining, train_lae
from training.denoiser.command import DiffLoRATraining, People, train_denoiser
from training.end_to_end.sampling_choice import choose_sampling
from training.engine.loop import TrainConfig
from training.store.lora_store import LoRAStore

from .embeddings import embed_people, load_conditions
from .end_to_end import tune_denoiser, tune_lae
from .teachers import CONFIG as TEACHER_CONFIG
from .teachers import layout, person_latents, train_teachers

# R² on validation people's teachers as fitted: tied .529; untied with as many parameters (28 channels) .474; PCA, four
# times as large, .581
LAE_CONFIG = LAEConfig(tokens=18, width=16, chunk=2048, channels=56, tied=True)
DIT_CONFIG = CONFIGURATIONS["miniature"]
LAE_TRAINING = LAETraining()
# On numbers alone: R² on validation people reaches .23 at 2,000 steps and hardly changes later. Pictures do the rest
DIFFLORA_TRAINING = DiffLoRATraining(
    TrainConfig(steps=2500, learning_rate=1e-3, warmup=200, weight_decay=0.02, ema=0.999),
    modality_dropout=0.3,
    rounds=5,
)
REFERENCES = 3
CHOICE_PEOPLE = 16
WORTH_IT = 0.005  # of face similarity, see `choose_sampling`
# Prompts for choosing settings; the demo's are others.
CHOICE_SCENES = (
    Scene(expression="laughing", shirt="green shirt", background="pink"),
    Scene(glasses="wearing glasses", shirt="red shirt", background="white"),
    Scene(expression="sad", hat="wearing a straw hat", shirt="blue shirt", background="yellow"),
    Scene(gaze="looking right", pose="turned left", shirt="white shirt", background="dark"),
)


@dataclass(frozen=True)
class Judging:
    """What turns LoRAs into figures on some people: base model, references, scenes."""

    base: BaseModel
    vae: TinyVAE
    tokenizer: Tokenizer
    people: Sequence[int]
    scenes: Sequence[Scene] = CHOICE_SCENES

    def figures(self, loras: Tensor) -> dict[str, float]:
        """Mean face similarity and prompt fidelity of LoRAs (people, numel)."""
        pictures = make_pictures(self.base, self.vae, self.tokenizer, layout(), loras, self.scenes)
        similar, faithful = [], []
        for index, made in zip(self.people, pictures, strict=True):
            rng = np.random.default_rng(index)
            references = [draw(person(index), reference_scene(rng)).image for _ in range(REFERENCES)]
            similar.append(face_similarity(list(made), references).mean())
            faithful.append(prompt_fidelity(list(made), self.scenes).mean())
        return {"similarity": float(np.mean(similar)), "fidelity": float(np.mean(faithful))}


def judging(weights: Path, tokenizer: Path, people: Sequence[int]) -> Judging:
    """Load what figures need."""
    return Judging(*load_checkpoint(weights), Tokenizer(tokenizer), people)


def conditions_of(model: DiffLoRA, path: Path, count: int) -> Tensor:
    """Conditions (people, width) of the first `count` people of an embeddings file, from their first references."""
    conditions, _ = load_conditions(path)
    rows = [model.mix(conditions.face[i, :REFERENCES], conditions.image[i, :REFERENCES]) for i in range(count)]
    return torch.cat(rows)


def sampling_for(
    model: DiffLoRA, judge: Judging, conditions: Tensor, teachers: Tensor
) -> tuple[SamplingConfig, dict[str, dict[str, float]]]:
    """The sampling with the highest face similarity on validation people whose prompt fidelity stays within 0.03 of no
    LoRA's; the log of all that was tried goes into the checkpoint's provenance.
    """
    log = {
        "no_lora": judge.figures(torch.zeros_like(teachers)),
        "teacher": judge.figures(teachers),
        "lae_of_teacher": judge.figures(model.decode(model.encode(teachers))),
        "average_person": judge.figures(model.decode(torch.zeros(len(teachers), *model.lae.latent_mean.shape))),
    }
    floor = log["no_lora"]["fidelity"] - 0.03

    def look(sampling: SamplingConfig) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        return judge.figures(model.decode(model.sample(conditions, generator=generator, **asdict(sampling))))

    def score(figures: dict[str, float]) -> float:
        return figures["similarity"] if figures["fidelity"] >= floor else -math.inf

    sampling, tried = choose_sampling(look, score, WORTH_IT)
    return sampling, log | tried


def train_personal(build: Path, weights: Path, tokenizer: Path, processes: int) -> None:
    """Train LAE, then MIF and DiT, each on numbers first and then through pictures; choose sampling; write
    weights/difflora/miniature.safetensors.
    """
    store = LoRAStore(build / "teachers", layout())
    loras, people = store.read("train")
    validation, validation_people = store.read("validation")
    embed_people(build / "conditions" / "train.safetensors", people)
    embed_people(build / "conditions" / "validation.safetensors", validation_people)
    embed_people(build / "conditions" / "everyone.safetensors", range(BASE_PEOPLE), BASE_PICTURES)
    conditions, order = load_conditions(build / "conditions" / "train.safetensors")
    if order.tolist() != people:
        raise ValueError(
            f"{build / 'conditions' / 'train.safetensors'} holds other people than the teachers: "
            "delete it and build again"
        )
    log: dict[str, object] = {"teachers": len(people)}

    def report(network: str, name: str, figures: dict[str, float]) -> None:
        print(f"  {network} {name}: {figures}", flush=True)
        log[f"{network} {name}"] = figures

    lae = train_lae(loras, validation, layout(), LAE_CONFIG, LAE_TRAINING, build, partial(report, "LAE"))
    log |= {f"LAE, pictures, {name}": one for name, one in tune_lae(lae, build, weights, tokenizer, processes).items()}
    mif = MIFConfig(conditions.face.shape[-1], conditions.image.shape[-1], DIT_CONFIG.condition_width)
    other_conditions, _ = load_conditions(build / "conditions" / "validation.safetensors")
    with torch.no_grad():
        known = People(lae.encode(loras), conditions)
        others = People(lae.encode(validation), other_conditions)
    denoiser = train_denoiser(known, others, DIT_CONFIG, mif, DIFFLORA_TRAINING, build, partial(report, "DiT"))
    tuned = tune_denoiser(denoiser, lae, build, weights, tokenizer, processes)
    log |= {f"DiT, pictures, {name}": one for name, one in tuned.items()}
    config = DiffLoRAConfig(LAE_CONFIG, DIT_CONFIG, mif, EncoderNames("miniature", "miniature"))
    model = DiffLoRA(layout(), config)
    model.lae.load_state_dict(lae.state_dict())
    model.dit.load_state_dict(denoiser.dit.state_dict())
    model.mif.load_state_dict(denoiser.mif.state_dict())
    model.eval().requires_grad_(False)
    judge = judging(weights, tokenizer, validation_people[:CHOICE_PEOPLE])
    references = conditions_of(model, build / "conditions" / "validation.safetensors", CHOICE_PEOPLE)
    sampling, tried = sampling_for(model, judge, references, validation[:CHOICE_PEOPLE])
    model.config = replace(config, sampling=sampling, provenance={**log, "validation": tried})
    path = weights / "difflora" / "miniature.safetensors"
    model.save(path)
    print(f"  chosen: {sampling}; wrote {path}", flush=True)


def seconds_per_teacher(weights: Path, tokenizer: Path, index: int) -> float:
    """Seconds to train one person's LoRA alone on one thread, from pictures that are already latents."""
    words = Tokenizer(tokenizer)
    base, vae = load_checkpoint(weights)
    latents = person_latents(vae, index)[None]
    start = time.monotonic()
    train_teachers(base, words, latents)
    return time.monotonic() - start


def ship_held_out(build: Path, weights: Path, tokenizer: Path) -> None:
    """Write the held-out teachers and, for each held-out person, the teacher of the training person most alike."""
    store = LoRAStore(build / "teachers", layout())
    teachers, people = store.read("held_out")
    trained, trained_people = store.read("train")
    embed_people(build / "conditions" / "held_out.safetensors", people, REFERENCES)
    own, _ = load_conditions(build / "conditions" / "held_out.safetensors")
    others, order = load_conditions(build / "conditions" / "train.safetensors")
    mean = [F.normalize(F.normalize(c.face.float(), dim=-1).mean(1), dim=-1) for c in (own, others)]
    nearest = [int(order[i]) for i in (mean[0] @ mean[1].T).argmax(1)]
    chosen = torch.stack([trained[trained_people.index(i)] for i in sorted(set(nearest))])
    folder = weights / "teachers"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"teachers": teachers.half().contiguous(), "nearest": chosen.half().contiguous()},
        folder / "held_out.safetensors",
    )
    seconds = seconds_per_teacher(weights, tokenizer, people[0])
    facts = {
        "people": people,
        "nearest": nearest,
        "seconds_per_teacher": seconds,
        "date": datetime.date.today().isoformat(),
        "settings": asdict(TEACHER_CONFIG),
    }
    (folder / "held_out.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
