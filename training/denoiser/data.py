"""What `train-difflora` is trained on: latents of the stores' LoRAs, computed once, beside the people's embeddings."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from difflora_core.autoencoder.model import LAE
from training.lora_dataset.config import load_config
from training.people.conditions import People
from training.people.embeddings import HOW, EmbeddingCache
from training.people.latents import cached_latents
from training.store import loras as lae_data
from training.store.lora_store import LoRAStore, Person

from .embed import embed_people, embeddings_folder
from .settings import DiffLoRASettings

COMPARED = 64  # validation people whose ΔW is compared with their teacher's: one of SDXL's LoRAs is 23 MB in memory


def open_embeddings(settings: DiffLoRASettings, accelerator: Accelerator) -> EmbeddingCache:
    """The configured embeddings, made now where a data set is named and this is the only process.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are of other encoders or widths than the configuration says.
    """
    own = settings.embeddings
    places = own.cache
    if own.dataset is not None:
        assert own.image_encoder is not None
        dataset = load_config(own.dataset)
        if dataset.faces.pack != settings.encoders.face or own.image_encoder.name != settings.encoders.image:
            raise ValueError(
                f"{own.dataset} and embeddings.image_encoder name the encoders {dataset.faces.pack} and "
                f"{own.image_encoder.name}, `encoders` says {settings.encoders.face} and {settings.encoders.image}."
            )
        places = (embeddings_folder(dataset, own.image_encoder),)
        if accelerator.num_processes == 1:
            embed_people(dataset, own.image_encoder, str(accelerator.device))
        elif not places[0].is_dir():  # the others would wait for hours at the next barrier, and be ended there
            raise FileNotFoundError(f"{places[0]} holds no embeddings: {HOW} first, in one process.")
    cache = EmbeddingCache.open(*places)
    widths = settings.mif.face_width or cache.widths[0], settings.mif.image_width or cache.widths[1]
    cache.check(settings.encoders, widths)
    return cache


def people_of(
    stores: Sequence[LoRAStore],
    split: str,
    lae: LAE,
    cache: EmbeddingCache,
    allow_missing: bool,
    folder: Path,
    device: str = "cpu",
) -> tuple[People, list[Person]]:
    """Latents and conditions of a split's people, with validation also LoRAs; and who they are.

    folder: where latents are kept.

    Raises:
        FileNotFoundError: the split holds nobody.
        ValueError: a LoRA or a latent is not finite, or people have no embeddings.
    """
    latents, people = cached_latents(stores, split, lae, folder / f"latents_{split}.safetensors", device)
    conditions, rows = cache.of(people, allow_missing)
    loras = lae_data.LoRAsOnDisk(stores, split).read(rows[:COMPARED]) if split == "validation" else None
    return People(latents[rows], conditions, loras), [people[row] for row in rows]
