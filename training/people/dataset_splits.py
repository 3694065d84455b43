"""Who of a dataset is kept from training: the people of its splits validation and test."""

from collections.abc import Iterable, Sequence

from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stages.pack_plan import split_of
from training.store.lora_store import LoRAStore


def people_of_split(config: DatasetConfig, split: str) -> list[str]:
    """List the people with prepared images who are in a split for every trainer, by name.

    Training without teachers divides people by a hash of the name. The other trainers read who is in which split from
    the store of teachers, where everybody stays whom `pack` has put there, and fine-tune on people with images and
    without a teacher, too. So where there is a store it has to say the same as the hash.

    Args:
        config: Of the dataset.
        split: validation or test.

    Raises:
        ValueError: There is nobody; or the store is damaged.
    """
    pack = config.pack
    prepared = Manifest(config.stage("preprocess")).done()
    people = [person for person in prepared if split_of(person, pack.validation, pack.test) == split]
    packed = has_store(config)
    if packed:
        stored = stored_splits([LoRAStore.open(config.store)])
        people = [person for person in people if stored.get(person) == split]
    if people:
        return people
    share = pack.test if split == "test" else pack.validation
    again = f", delete {config.stage('pack')} and {config.store}, since people in the store keep their split,"
    raise ValueError(
        f"none of {len(prepared)} people with prepared images in {config.workspace} is in the split {split!r}: "
        f"pack.{split} is {share:g}. Before anything is trained, add people or set pack.{split} to a larger "
        f"share{again if packed else ''} and run the dataset's step again"
    )


def splits_of(config: DatasetConfig, people: Iterable[str]) -> dict[str, str]:
    """Return the split of each of some people: the one in which the dataset's store has them, else that of the name."""
    pack = config.pack
    stored = stored_splits([LoRAStore.open(config.store)]) if has_store(config) else {}
    return {person: stored.get(person) or split_of(person, pack.validation, pack.test) for person in people}


def stored_splits(stores: Sequence[LoRAStore]) -> dict[str, str]:
    """Return the split of everybody in stores, by name."""
    splits = [(split, shard) for store in stores for split in store.splits() for shard in store.shards(split)]
    return {str(person): split for split, shard in splits for person in shard.people}


def has_store(config: DatasetConfig) -> bool:
    """Whether the dataset has a store of LoRAs already."""
    return (config.store / "layout.json").is_file()
