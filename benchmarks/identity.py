"""Whose face do the pictures show? DiffLoRA, its parts switched off one by one, and the baselines to beat.

    python -m benchmarks.identity [--table methods stages dreambooth gate] [--people 25] [--seeds 1 2 3]
    python -m benchmarks.identity --table sampling --split validation --people 16 [--figure curves.png]

Every method gets the same three reference pictures of each person, through the real encoders, and its LoRA makes the
same prompts' pictures from the same noise; a seed changes references, LoRAs and pictures. Face similarity is the raw
cosine of the measuring recognizer; `of teacher` is (method − none) / (teacher − none). Pictures are made without
ComfyUI (the demo measures there). `sampling` is for choosing and therefore refuses held-out people; `baselines` that
learn (ridge regression, one-shot regression) learn from the miniature's scratch folder, which has to be there:
`python -m miniature build`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.sampling_curves import SAMPLING, curves, label
from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.mif import mean_embedding
from difflora_core.encoders import FaceEncoder, ImageEncoder
from difflora_core.files import read_tensors
from difflora_core.model import DiffLoRA
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.model import Tokenizer
from miniature.build import Workshop
from miniature.demo.run import SCENES
from miniature.encoders.faces import ROOT as FACES
from miniature.measure.evaluation import face_similarity, make_pictures, prompt_fidelity
from miniature.personal.embeddings import load_conditions
from miniature.personal.held_out import CHECKPOINT, HeldOut
from miniature.personal.teachers import CONFIG as TEACHER_CONFIG
from miniature.personal.teachers import layout, person_latents, teacher_people, train_teachers
from miniature.personal.train import CHOICE_SCENES, DIFFLORA_TRAINING, REFERENCES
from miniature.world.drawing import draw
from miniature.world.people import person, reference_scene
from training.denoiser.command import ONE_SHOT, assemble
from training.denoiser.train import Denoiser, train_denoiser
from training.engine.charts import draw_panels
from training.people.conditions import People
from training.store.lora_store import LoRAStore

Table = dict[str, Tensor]
ONE_SAMPLE: dict[str, Any] = {"samples": 1, "latent_scale": 1.0}


class Panel:
    """People with references, and the base model that draws them."""

    def __init__(self, split: str, people: int, seed: int) -> None:
        self.seed, self.scenes = seed, SCENES if split == "held_out" else CHOICE_SCENES
        self.people = list(teacher_people(split))[:people]
        shop = Workshop()
        self.base, self.vae = load_checkpoint(shop.weights)
        self.base.requires_grad_(False)
        self.tokenizer = Tokenizer(shop.tokenizer)
        self.references = [self._references(index) for index in self.people]
        face = FaceEncoder.open("miniature", FACES)
        image = ImageEncoder.open(shop.weights / "clip_vision" / "miniature")
        self.face = torch.cat([mean_embedding(face.encode(own)) for own in self.references])
        self.image = torch.cat([mean_embedding(image.encode(own)) for own in self.references])

    def _references(self, index: int) -> list[np.ndarray]:
        dice = np.random.default_rng([self.seed, index])
        return [draw(person(index), reference_scene(dice)).image for _ in range(REFERENCES)]

    def figures(self, loras: Tensor) -> dict[str, float]:
        """Mean face similarity and prompt fidelity of LoRAs (people, numel)."""
        made = make_pictures(self.base, self.vae, self.tokenizer, layout(), loras, self.scenes, self.seed)
        pairs = list(zip(made, self.references, strict=True))
        return {
            "similarity": float(np.mean([face_similarity(list(own), references).mean() for own, references in pairs])),
            "fidelity": float(np.mean([prompt_fidelity(list(own), self.scenes).mean() for own in made])),
        }

    def latents(self, model: DiffLoRA, mode: str | None = None, **sampling: object) -> Tensor:
        """Everybody's latents, each from a generator of its own."""
        condition, _ = model.mif(self.face, self.image, mode)
        dice = [torch.Generator().manual_seed(self.seed) for _ in self.people]
        return model.sample(condition, generator=dice, **sampling)  # type: ignore[arg-type]

    def teachers(self, split: str) -> Tensor:
        """LoRAs that were trained for these people."""
        if split == "held_out":
            return HeldOut.load().teachers[: len(self.people)].float()
        return store().read(split)[0][: len(self.people)]


def store() -> LoRAStore:
    """The teachers in the scratch folder."""
    return LoRAStore(Workshop().build / "teachers", layout())


def methods(panel: Panel, split: str, model: DiffLoRA) -> Table:
    """DiffLoRA as it ships and for one sample; the teacher; what needs no diffusion."""
    teachers = panel.teachers(split)
    trained, people = store().read("train")
    conditions, order = load_conditions(Workshop().build / "conditions" / "train.safetensors")
    if order.tolist() != people:
        raise ValueError("the embeddings in the scratch folder are of other people than the teachers: build again")
    known = mean_faces(conditions.face)
    known_latents = model.encode(trained)
    strength = choose_strength(known, known_latents.flatten(1), model)
    regressed = ridge(known, known_latents.flatten(1), panel.face, strength).view(-1, *known_latents.shape[1:])
    return {
        "none": torch.zeros_like(teachers),
        "mean of the teachers": trained.mean(0).expand_as(teachers),
        "average person (latent zero)": model.decode(torch.zeros(len(teachers), *known_latents.shape[1:])),
        "teacher of the most similar training person": trained[(panel.face @ known.T).argmax(1)],
        "ridge regression, face embedding to latent": model.decode(regressed),
        "DiffLoRA, one sample": model.decode(panel.latents(model, **ONE_SAMPLE)),
        "DiffLoRA": model.decode(panel.latents(model)),
        "teacher through the LAE": model.decode(model.encode(teachers)),
        "teacher through PCA with as many numbers": through_pca(trained, teachers, model.config.lae),
        "teacher": teachers,
    }


def mean_faces(embeddings: Tensor) -> Tensor:
    """(people, pictures, width) → the unit-length mean (people, width)."""
    return F.normalize(F.normalize(embeddings.float(), dim=-1).mean(1), dim=-1)


def choose_strength(x: Tensor, y: Tensor, model: DiffLoRA) -> float:
    """The penalty that predicts validation people's latents best."""
    conditions, _ = load_conditions(Workshop().build / "conditions" / "validation.safetensors")
    seen = mean_faces(conditions.face[:, :REFERENCES])
    latents = model.encode(store().read("validation")[0]).flatten(1)
    return min((0.1, 0.3, 1.0, 3.0, 10.0), key=lambda s: float((ridge(x, y, seen, s) - latents).square().sum()))


@torch.no_grad()
def through_pca(trained: Tensor, loras: Tensor, config: LAEConfig) -> Tensor:
    """LoRAs (people, numel) to the latent's size and back by principal components of the training people's."""
    pca = LAE(layout(), LAEConfig(kind="linear", tokens=config.tokens, width=config.width))
    pca.fit(trained)
    return pca.decode(pca.encode(loras))


def ridge(x: Tensor, y: Tensor, queries: Tensor, strength: float) -> Tensor:
    """Penalised linear regression of y (n, targets) on x (n, features), for other x: (queries, targets)."""
    mean = x.mean(0)
    x = x - mean
    weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return (queries - mean) @ weights + y.mean(0)


def stages(panel: Panel, split: str, model: DiffLoRA) -> Table:
    """MIF and DiT before pictures tuned them, and one-shot regression with the same networks on the same numbers."""
    del split
    numbers = Denoiser(model.config.dit, model.config.mif)
    numbers.load_state_dict(read_tensors(Workshop().build / "difflora_best.safetensors")[0])
    diffusion = assemble(model.lae, numbers, model.config)
    regression = assemble(model.lae, trained_regression(model), replace(model.config, sampling=ONE_SHOT))
    return {
        "numbers alone, one-shot regression": model.decode(panel.latents(regression)),
        "numbers alone, diffusion, one sample": model.decode(panel.latents(diffusion, **ONE_SAMPLE)),
        "numbers alone, diffusion": model.decode(panel.latents(diffusion)),
    }


def trained_regression(model: DiffLoRA) -> Denoiser:
    """The baseline behind the same trainer, with the same settings but its objective; kept in the scratch folder."""
    build = Workshop().build
    people = []
    for split in ("train", "validation"):
        conditions, _ = load_conditions(build / "conditions" / f"{split}.safetensors")
        people.append(People(model.encode(store().read(split)[0]), conditions))
    settings = replace(DIFFLORA_TRAINING, objective="regression")
    config = model.config
    return train_denoiser(
        *people, config.dit, config.mif, settings, build / "regression", lambda name, told: print(name, told)
    )


def dreambooth(panel: Panel, split: str, model: DiffLoRA) -> Table:
    """Teachers that were trained longer: how far from the best that training for a person gives is the shipped one?"""
    del split, model
    latents = torch.stack([person_latents(panel.vae, index) for index in panel.people])
    return {
        f"DreamBooth LoRA, {steps} steps": train_teachers(
            panel.base, panel.tokenizer, latents, replace(TEACHER_CONFIG, steps=steps)
        )[0]
        for steps in (160, 320)
    }


def gate(panel: Panel, split: str, model: DiffLoRA) -> Table:
    """The ablation of MIF."""
    del split
    return {mode: model.decode(panel.latents(model, mode)) for mode in ("gate", "mean", "face", "image")}


def sampling(panel: Panel, split: str, model: DiffLoRA) -> Table:
    """Curves over steps, guidance, samples, latent scale and scheduler, one at a time from what ships."""
    if split == "held_out":
        raise ValueError("settings are chosen on validation people: use --split validation")
    return {
        label(name, value, one): model.decode(panel.latents(model, **{name: value}, **(ONE_SAMPLE if one else {})))
        for name, values in SAMPLING.items()
        for value in values
        for one in ((False, True) if name == "steps" else (False,))
    }


TABLES: dict[str, Callable[[Panel, str, DiffLoRA], Table]] = {
    "methods": methods,
    "stages": stages,
    "dreambooth": dreambooth,
    "gate": gate,
    "sampling": sampling,
}


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=TABLES, default=["methods"])
    parser.add_argument("--split", choices=["held_out", "validation"], default="held_out")
    parser.add_argument("--people", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--figure", type=Path, help="PNG file for the curves of the table `sampling`")
    arguments = parser.parse_args()
    if arguments.figure and "sampling" not in arguments.table:
        parser.error("--figure draws the table sampling: add --table sampling --split validation")
    torch.set_num_threads(1)
    model = DiffLoRA.load(arguments.checkpoint)
    start = time.monotonic()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        panel = Panel(arguments.split, arguments.people, seed)
        loras: Table = {
            "none": torch.zeros(len(panel.people), layout().numel),
            "teacher": panel.teachers(arguments.split),
        }
        for name in arguments.table:
            loras |= TABLES[name](panel, arguments.split, model)
        for name, flat in tqdm(loras.items(), desc=f"seed {seed}"):
            found.setdefault(name, []).append(panel.figures(flat))
    if arguments.figure:
        draw_panels(arguments.figure, curves(found))
    print(json.dumps(summary(found, arguments.split, arguments.people), indent=1))
    print(f"{asdict(model.config.sampling)}; {time.monotonic() - start:.0f} s")


def summary(found: dict[str, list[dict[str, float]]], split: str, people: int) -> dict[str, object]:
    """Means over seeds, each seed's similarity, and the share of the teacher's."""

    def column(name: str, figure: str) -> np.ndarray:
        return np.array([one[figure] for one in found[name]])

    none, teacher = column("none", "similarity"), column("teacher", "similarity")
    lines = {
        name: {
            "similarity": [round(float(value), 3) for value in column(name, "similarity")],
            "of teacher": round(float((column(name, "similarity").mean() - none.mean()) / (teacher - none).mean()), 3),
            "fidelity": round(float(column(name, "fidelity").mean()), 3),
        }
        for name in found
    }
    return {"split": split, "people": people, **lines}


if __name__ == "__main__":
    main()
