"""The shipped teachers of held-out people: LoRAs trained for them the slow way, to measure against."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from difflora_core.lora.file_formats import save_lora
from difflora_core.model import DiffLoRA
from miniature.paths import WEIGHTS

FILE = WEIGHTS / "teachers" / "held_out.safetensors"
CHECKPOINT = WEIGHTS / "difflora" / "miniature.safetensors"


@dataclass(frozen=True)
class HeldOut:
    """Teachers of held-out people, and of the training person whose face is nearest to each."""

    people: tuple[int, ...]
    teachers: Tensor
    """(people, numel) fp16."""
    nearest_people: tuple[int, ...]
    """Training person with the most similar face embedding, one for each of `people`; some are there twice."""
    nearest: Tensor
    """(distinct people, numel) fp16: their teachers, by rising index."""
    seconds_per_teacher: float
    date: str

    @classmethod
    def load(cls, path: Path = FILE) -> "HeldOut":
        """Read the tensors and the JSON file beside them."""
        tensors = load_file(path)
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return cls(
            tuple(facts["people"]),
            tensors["teachers"],
            tuple(facts["nearest"]),
            tensors["nearest"],
            facts["seconds_per_teacher"],
            facts["date"],
        )

    def teacher_file(self, index: int) -> str:
        """Name under which `write_teachers` put the person's teacher into models/loras."""
        return f"teacher_{index}.safetensors"

    def nearest_file(self, index: int) -> str:
        """Name under which `write_teachers` put the nearest training person's teacher."""
        return f"nearest_{index}.safetensors"


def write_teachers(held_out: HeldOut, people: Iterable[int], folder: Path) -> None:
    """Write the teachers of some people as LoRA files in kohya names, as ComfyUI's own loader reads them."""
    layout = DiffLoRA.load(CHECKPOINT).layout
    distinct = sorted(set(held_out.nearest_people))
    for index in people:
        row = held_out.people.index(index)
        save_lora(folder / held_out.teacher_file(index), held_out.teachers[row].float(), layout)
        nearest = held_out.nearest[distinct.index(held_out.nearest_people[row])]
        save_lora(folder / held_out.nearest_file(index), nearest.float(), layout)
