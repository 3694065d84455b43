"""What a result depends on that was made from stores of LoRAs."""

from collections.abc import Sequence

from training.lora_dataset.fingerprints import hash_value
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk, digest_of_loras, people_of


def store_fingerprint(stores: Sequence[LoRAStore], *splits: str) -> str:
    """Hash the people of some splits and some weights of every LoRA: contents may have many gigabytes.

    Raises:
        FileNotFoundError: A split is empty.
        ValueError: A file is damaged, or a LoRA not finite.
    """
    found = []
    for split in splits:
        people = people_of(stores, split)
        if not people:
            folders = ", ".join(str(store.folder) for store in stores)
            raise FileNotFoundError(f"{folders} holds no LoRAs of split {split!r}")
        found.append([split, list(map(str, people)), digest_of_loras(LoRAsOnDisk(stores, split))])
    return hash_value(found)
