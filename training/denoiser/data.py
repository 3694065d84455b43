"""What `train-difflora` is trained on: latents of the stores' LoRAs, and the people's embeddings."""

from collections.abc import Sequence
from pathlib import Path

from difflora_core.autoencoder.model import LAE
from training.people.conditions import People
from training.people.embeddings import EmbeddingCache
from training.people.latents import cached_latents
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk
from training.store.shard import Person

MAX_COMPARED = 64  # validation people whose ΔW is compared with their teacher's: one of SDXL's LoRAs takes 23 MB


def people_of_split(
    stores: Sequence[LoRAStore],
    split: str,
    lae: LAE,
    cache: EmbeddingCache,
    allow_missing: bool,
    folder: Path,
    device: str = "cpu",
) -> tuple[People, list[Person]]:
    """Load latents and conditions of a split's people; of the validation split also some LoRAs.

    Args:
        stores: Of LoRAs.
        split: Their name.
        lae: Whose latents.
        cache: The people's embeddings.
        allow_missing: Leave out people without embeddings, in place of an error.
        folder: Where latents are kept.
        device: Of the LAE.

    Returns:
        What is known of the people, and who they are.

    Raises:
        FileNotFoundError: The split is empty.
        ValueError: A LoRA or a latent is not finite, or people have no embeddings.
    """
    latents, people = cached_latents(stores, split, lae, folder / f"latents_{split}.safetensors", device)
    conditions, rows = cache.of(people, allow_missing)
    loras = LoRAsOnDisk(stores, split).read(rows[:MAX_COMPARED]) if split == "validation" else None
    return People(latents[rows], conditions, loras), [people[row] for row in rows]
