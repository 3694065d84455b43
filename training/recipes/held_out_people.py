"""The check that nobody whom one step of a recipe keeps from training is trained on in another step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from training.lora_dataset.config import load_config
from training.lora_dataset.manifest import Manifest
from training.people.dataset_splits import splits_of, stored_splits
from training.store.lora_store import LoRAStore

from .recipe import Step

TRAIN = "train"


def check_held_out_people(steps: Sequence[Step]) -> None:
    """Check that all stores and the dataset agree on who is trained on; to be asked before networks are trained.

    Raises:
        ValueError: Somebody is in the split train of one and in another split of another; both are named.
    """
    known: dict[str, tuple[str, str]] = {}
    for place, splits in _places(steps):
        for person, split in splits.items():
            before, other = known.setdefault(person, (split, place))
            if (before == TRAIN) != (split == TRAIN):
                raise ValueError(
                    f"{person} is in the split {before} of {other}, and in the split {split} of {place}: who is kept "
                    "from training has to be so in every step. Take the person out of one of them, or give both "
                    "datasets the same pack.validation and pack.test before their LoRAs are packed"
                )


def _places(steps: Sequence[Step]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every dataset and every store, each once: how messages call it, and the split of each person in it."""
    seen: set[Path] = set()
    for step in steps:
        if step.is_dataset:
            config = load_config(step.settings)
            prepared = Manifest(config.stage("preprocess")).done()
            yield f"the dataset in {config.workspace}", splits_of(config, prepared)
        for setting, path in {**step.files.reads, **step.files.given}.items():
            if path not in seen and (path / "layout.json").is_file():
                seen.add(path)
                yield f"{path} ({step.settings.name}: {setting})", stored_splits([LoRAStore.open(path)])
