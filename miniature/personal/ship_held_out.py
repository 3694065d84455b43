"""Stage `held_out`: what DiffLoRA is compared with on held-out people."""

import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path

from difflora_core.files import replacing, write_tensors
from difflora_core.lora.file_formats import save_lora
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import lora_layout
from miniature.base_model.model import Tokenizer
from miniature.world.drawing import REFERENCES
from miniature.world.people import person_name
from training.store.lora_store import LoRAStore

from .embeddings import embed_people, load_conditions
from .teachers import CONFIG, person_latents, train_teachers

NEAREST = "nearest_teachers"
"""Folder of LoRA files in the build folder."""


def ship_held_out(build: Path, weights: Path, tokenizer: Path) -> None:
    """Write the held-out teachers and, as scratch, each one's nearest: the teacher of the most similar training person.

    Args:
        build: Scratch folder, with the teachers.
        weights: Folder of what ships.
        tokenizer: Folder of CLIP's tokenizer.
    """
    store = LoRAStore(build / "teachers", lora_layout())
    teachers, people = store.read("held_out")
    trained, trained_people = store.read("train")
    embed_people(build / "conditions" / "held_out.safetensors", people, REFERENCES)
    own, _ = load_conditions(build / "conditions" / "held_out.safetensors")
    others, order = load_conditions(build / "conditions" / "train.safetensors")
    own_faces, other_faces = (conditions.first(conditions.face.shape[1])[0] for conditions in (own, others))
    nearest = [int(order[row]) for row in (own_faces @ other_faces.T).argmax(1)]
    for index, other in zip(people, nearest, strict=True):
        lora = trained[trained_people.index(other)].float()
        save_lora(build / NEAREST / f"{person_name(index)}.safetensors", lora, lora_layout())
    folder = weights / "teachers"
    write_tensors(folder / "held_out.safetensors", {"teachers": teachers.half().contiguous()})
    facts = {
        "people": people,
        "seconds_per_teacher": seconds_per_teacher(weights, tokenizer, people[0]),
        "date": datetime.date.today().isoformat(),
        "settings": asdict(CONFIG),
    }
    with replacing(folder / "held_out.json") as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def seconds_per_teacher(weights: Path, tokenizer: Path, index: int) -> float:
    """Measure the seconds to train one person's LoRA alone on one thread, from images that are already latents."""
    words = Tokenizer(tokenizer)
    base, vae = load_checkpoint(weights)
    latents = person_latents(vae, index)[None]
    start = time.monotonic()
    train_teachers(base, words, latents)
    return time.monotonic() - start
