"""Likeness and prompt fidelity of DiffLoRA, of its ablations and of baselines, on people it was not trained on.

    python -m benchmarks.identity [--table methods stages dreambooth gate] [--people 25] [--seeds 1 2 3]
    python -m benchmarks.identity --table checkpoint --checkpoint FILE
    python -m benchmarks.identity --table sampling --split validation --people 16 [--figure curves.png]

Every method gets the same three reference images of each person, through the real encoders, and images of the same
prompts are generated with its LoRA from the same noise; a seed changes references, LoRAs and images. Face similarity is
the cosine of the measuring recognizer; `of teacher` is (method − none) / (teacher − none). Images are generated without
ComfyUI (the demo measures there). The table `sampling` is for choosing settings and therefore refuses held-out people.
Baselines are trained on the miniature's scratch folder, which has to be there: `python -m miniature build`.
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
from tqdm import tqdm

from benchmarks.regression_baselines import (
    ridge_latents,
    teacher_store,
    through_pca,
    trained_regression,
    training_faces,
)
from benchmarks.sampling_curves import SAMPLING, curves, label
from difflora_core.denoiser.model import Denoiser
from difflora_core.model import DiffLoRA
from miniature.base_model.config import lora_layout
from miniature.comfyui.host import find_tokenizer
from miniature.paths import BUILD, DIFFLORA_CHECKPOINT
from miniature.personal.evaluated_people import EvaluatedPeople
from miniature.personal.teachers import CONFIG as TEACHER_CONFIG
from miniature.personal.teachers import person_latents, train_teachers
from training.denoiser.command import ONE_SHOT
from training.engine.charts import draw_panels
from training.engine.evaluated_run import load_best_of_run
from training.evaluation.methods.loras.mean_lora import mean_of
from training.people.assembly import assemble

Table = dict[str, Tensor]
ONE_SAMPLE: dict[str, Any] = {"samples": 1, "latent_scale": 1.0}


def methods(people: EvaluatedPeople, model: DiffLoRA) -> Table:
    """DiffLoRA as it ships and with one sample, the teacher, and baselines without diffusion."""
    teachers = people.teachers()
    trained, _ = teacher_store().read("train")
    faces, latents = training_faces(), model.encode(trained)
    return {
        "none": torch.zeros_like(teachers),
        "mean of the teachers": mean_of(iter([trained])).expand_as(teachers),
        "average person (latent zero)": model.decode(torch.zeros(len(teachers), *latents.shape[1:])),
        "teacher of the most similar training person": trained[(people.face @ faces.T).argmax(1)],
        "ridge regression, face embedding to latent": model.decode(ridge_latents(faces, latents, people.face, model)),
        "DiffLoRA, one sample": model.decode(people.latents(model, **ONE_SAMPLE)),
        "DiffLoRA": model.decode(people.latents(model)),
        "teacher through the LAE": model.decode(model.encode(teachers)),
        "teacher through PCA with as many components": through_pca(trained, teachers, model.config.lae),
        "teacher": teachers,
    }


def stages(people: EvaluatedPeople, model: DiffLoRA) -> Table:
    """MIF and DiT before end-to-end fine-tuning, and one-shot regression by the same networks in latent space."""
    denoiser = Denoiser(model.config.dit, model.config.mif)
    load_best_of_run(denoiser, BUILD, "difflora")
    diffusion = assemble(model.lae, denoiser, model.config)
    regression = assemble(model.lae, trained_regression(model), replace(model.config, sampling=ONE_SHOT))
    return {
        "latent-space training, one-shot regression": model.decode(people.latents(regression)),
        "latent-space training, diffusion, one sample": model.decode(people.latents(diffusion, **ONE_SAMPLE)),
        "latent-space training, diffusion": model.decode(people.latents(diffusion)),
    }


def dreambooth(people: EvaluatedPeople, _: DiffLoRA) -> Table:
    """Teachers that were trained longer: how good can training for a person become?"""
    evaluation = people.evaluation
    latents = torch.stack([person_latents(evaluation.vae, index) for index in people.indices])
    return {
        f"DreamBooth LoRA, {steps} steps": train_teachers(
            evaluation.base, evaluation.tokenizer, latents, replace(TEACHER_CONFIG, steps=steps)
        )[0]
        for steps in (160, 320)
    }


def gate(people: EvaluatedPeople, model: DiffLoRA) -> Table:
    """The ablation of MIF."""
    return {mode: model.decode(people.latents(model, mode)) for mode in ("gate", "mean", "face", "image")}


def sampling(people: EvaluatedPeople, model: DiffLoRA) -> Table:
    """Curves over steps, guidance, samples, latent scale, temperature and scheduler, changed one at a time.

    Raises:
        ValueError: The people are held out.
    """
    if people.split == "held_out":
        raise ValueError("settings are chosen on validation people: use --split validation")
    return {
        label(name, value, one): model.decode(people.latents(model, **{name: value}, **(ONE_SAMPLE if one else {})))
        for name, values in SAMPLING.items()
        for value in values
        for one in ((False, True) if name == "steps" else (False,))
    }


def checkpoint(people: EvaluatedPeople, model: DiffLoRA) -> Table:
    """DiffLoRA alone; needs nothing of the scratch folder."""
    return {"DiffLoRA": model.decode(people.latents(model))}


TABLES: dict[str, Callable[[EvaluatedPeople, DiffLoRA], Table]] = {
    "methods": methods,
    "stages": stages,
    "dreambooth": dreambooth,
    "gate": gate,
    "sampling": sampling,
    "checkpoint": checkpoint,
}


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=TABLES, default=["methods"])
    parser.add_argument("--split", choices=["held_out", "validation"], default="held_out")
    parser.add_argument("--people", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--checkpoint", type=Path, default=DIFFLORA_CHECKPOINT)
    parser.add_argument("--figure", type=Path, help="PNG file for the curves of the table `sampling`")
    arguments = parser.parse_args()
    if arguments.figure and "sampling" not in arguments.table:
        parser.error("--figure draws the table sampling: add --table sampling --split validation")
    torch.set_num_threads(1)
    model = DiffLoRA.load(arguments.checkpoint)
    start = time.monotonic()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        people = EvaluatedPeople(arguments.split, arguments.people, seed, find_tokenizer())
        loras: Table = {"none": torch.zeros(len(people.indices), lora_layout().numel), "teacher": people.teachers()}
        for name in arguments.table:
            loras |= TABLES[name](people, model)
        for name, flat in tqdm(loras.items(), desc=f"seed {seed}"):
            found.setdefault(name, []).append(people.evaluation.evaluate(flat))
    if arguments.figure:
        draw_panels(arguments.figure, curves(found))
    print(json.dumps(summary(found, arguments.split, len(people.indices)), indent=1))
    print(f"{asdict(model.config.sampling)}; {time.monotonic() - start:.0f} s")


def summary(found: dict[str, list[dict[str, float]]], split: str, people: int) -> dict[str, object]:
    """Summarize the metrics of every method, one for each seed: similarities, share of the teacher's, mean fidelity."""

    def column(name: str, metric: str) -> np.ndarray:
        return np.array([one[metric] for one in found[name]])

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
