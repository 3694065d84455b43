"""The shipped teachers of held-out people: LoRAs trained for each of them, for comparison."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import save_lora
from difflora_core.model import DiffLoRA
from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS

FILE = WEIGHTS / "teachers" / "held_out.safetensors"


@dataclass(frozen=True)
class HeldOutTeachers:
    """Teachers of held-out people."""

    people: tuple[int, ...]
    """Indices of held-out people."""
    teachers: Tensor
    """float16 (people, numel)."""
    seconds_per_teacher: float
    """Time to train one teacher alone on one thread."""
    date: str
    """When that was measured."""

    @classmethod
    def load(cls, path: Path = FILE) -> "HeldOutTeachers":
        """Read the tensors and the JSON file beside them."""
        tensors = read_tensors(path)[0]
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return cls(
            tuple(facts["people"]),
            tensors["teachers"],
            facts["seconds_per_teacher"],
            facts["date"],
        )

    def teacher_file(self, index: int) -> str:
        """Name under which `write_teachers` put the person's teacher into models/loras."""
        return f"teacher_{index}.safetensors"


def write_teachers(held_out: HeldOutTeachers, people: Iterable[int], folder: Path) -> None:
    """Write the teachers of some people as LoRA files with kohya's names, which ComfyUI's own loader reads."""
    layout = DiffLoRA.load(DIFFLORA_CHECKPOINT).layout
    for index in people:
        row = held_out.people.index(index)
        save_lora(folder / held_out.teacher_file(index), held_out.teachers[row].float(), layout)
