"""What a result depends on that was made from stores of LoRAs."""

from collections.abc import Sequence

from training.lora_dataset.fingerprints import hash_value
from training.store.lora_store import LoRAStore


def store_fingerprint(stores: Sequence[LoRAStore], *splits: str) -> str:
    """Hash the people of some splits, and names, sizes and times of their files: contents may have many gigabytes.

    Raises:
        FileNotFoundError: A split is empty.
        ValueError: A file is damaged.
    """
    found = []
    for split in splits:
        shards = [shard for store in stores for shard in store.shards(split)]
        if not shards:
            folders = ", ".join(str(store.folder) for store in stores)
            raise FileNotFoundError(f"{folders} holds no LoRAs of split {split!r}")
        for shard in shards:
            status = shard.path.stat()
            found.append([split, list(shard.people), shard.path.name, status.st_size, status.st_mtime_ns])
    return hash_value(found)
