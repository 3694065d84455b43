"""What `train-difflora` is trained on: latents of the stores' LoRAs, and the people's embeddings."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from difflora_core.autoencoder.model import LAE
from training.lora_dataset.config import load_config
from training.people.conditions import People
from training.people.embeddings import HOW, EmbeddingCache
from training.people.latents import cached_latents
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsOnDisk
from training.store.shard import Person

from .embed import embed_people
from .settings import DiffLoRASettings

MAX_COMPARED = 64  # validation people whose ΔW is compared with their teacher's: one of SDXL's LoRAs takes 23 MB


def open_embeddings(settings: DiffLoRASettings, accelerator: Accelerator) -> EmbeddingCache:
    """Open the configured embeddings; where a dataset is named and this is the only process, make them first.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are of other encoders or widths than the configuration says.
    """
    own = settings.embeddings
    places: tuple[Path, ...] = own.cache
    if own.dataset is not None:
        assert own.image_encoder is not None
        dataset = load_config(own.dataset)
        if dataset.faces.pack != settings.encoders.face or own.image_encoder.name != settings.encoders.image:
            raise ValueError(
                f"{own.dataset} and embeddings.image_encoder name the encoders {dataset.faces.pack} and "
                f"{own.image_encoder.name}, `encoders` says {settings.encoders.face} and {settings.encoders.image}."
            )
        places = (dataset.embeddings(own.image_encoder),)
        if accelerator.num_processes == 1:
            embed_people(dataset, own.image_encoder, str(accelerator.device))
        elif not places[0].is_dir():  # the others would wait for hours at the next barrier, and be ended there
            raise FileNotFoundError(f"{places[0]} holds no embeddings: {HOW} first, in one process.")
    cache = EmbeddingCache.open(*places)
    widths = settings.mif.face_width or cache.widths[0], settings.mif.image_width or cache.widths[1]
    cache.check(settings.encoders, widths)
    return cache


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
