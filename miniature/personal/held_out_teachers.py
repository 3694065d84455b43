"""The shipped teachers of held-out people: LoRAs trained for each of them, for comparison."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import save_lora
from miniature.base_model.config import lora_layout
from miniature.paths import WEIGHTS

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
        return cls(tuple(facts["people"]), tensors["teachers"], facts["seconds_per_teacher"], facts["date"])

    def write(self, index: int, path: Path) -> None:
        """Write a person's teacher as a LoRA file with kohya's names, which ComfyUI's own loader reads."""
        save_lora(path, self.teachers[self.people.index(index)].float(), lora_layout())
