"""What `train-difflora` is trained on: latents of the stores' LoRAs, computed once, beside the people's embeddings."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from difflora_core.lae import LAE
from difflora_core.lae_file import load_lae
from difflora_core.model import HEADER, DiffLoRA
from difflora_core.tensor_file import read_tensors, write_tensors

from . import lae_data
from .conditions import People
from .difflora_settings import DiffLoRASettings
from .embed import embed_people, embeddings_folder
from .embeddings import HOW, EmbeddingCache
from .lora_dataset.config import load_config
from .lora_store import LoRAStore, Person, read_header

COMPARED = 64  # validation people whose ΔW is compared with their teacher's: one of SDXL's LoRAs is 23 MB in memory


def open_lae(path: Path) -> LAE:
    """A frozen LAE, from its own file or out of a whole DiffLoRA checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no LAE {path}: train one first (python -m training train-lae).")
    header, _ = read_header(path)
    if HEADER in header.get("__metadata__", {}):
        return DiffLoRA.load(path).lae
    return load_lae(path)


def check_layout(stores: Sequence[LoRAStore], lae: LAE) -> None:
    """Raise ValueError unless the LAE was trained for the stores' layout; the first difference is named."""
    for store in stores:
        if (difference := lae.layout.difference(store.layout)) is not None:
            raise ValueError(
                f"{store.folder} holds LoRAs of another layout than the LAE was trained for: {difference}. Train an "
                "LAE on this store, or name its own."
            )


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


def cached_latents(
    stores: Sequence[LoRAStore], split: str, lae: LAE, path: Path, device: str = "cpu"
) -> tuple[Tensor, list[Person]]:
    """Standardised latents (people, tokens, width) float32 of a split and whose they are.

    Kept in `path` until the LAE or the stores' shards change.
    """
    people = lae_data.people_of(stores, split)
    if not people:
        folders = ", ".join(str(store.folder) for store in stores)
        raise FileNotFoundError(f"{folders} holds no LoRAs of split {split!r}: train or import some first.")
    files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for store in stores for p in store.paths(split)]
    key = json.dumps({"lae": digest(lae), "shards": files, "people": people})
    if path.exists():
        tensors, metadata = read_tensors(path)
        if metadata.get("key") == key:
            return tensors["latents"], people
    latents = _encode(lae_data.LoRAsOnDisk(stores, split), people, lae.to(device), f"latents {split}")
    write_tensors(path, {"latents": latents}, {"key": key})
    return latents, people


def digest(lae: LAE) -> str:
    """A hash of the LAE's weights, statistics and configuration: latents of another one mean something else."""
    hashed = hashlib.sha256(json.dumps(asdict(lae.config)).encode())
    for name, tensor in sorted(lae.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


@torch.no_grad()
def _encode(loras: lae_data.LoRAs, people: Sequence[Person], lae: LAE, title: str) -> Tensor:
    parts: list[Tensor] = []
    with tqdm(total=len(loras), desc=title, mininterval=5) as progress:
        for batch in lae_data.in_batches(loras):
            latents = lae.encode(batch.to(lae.mean.device)).float().cpu()
            if not (finite := latents.isfinite().all((1, 2))).all():
                person = people[progress.n + int((~finite).nonzero()[0])]
                raise ValueError(
                    f"the latent of {person} holds NaN or infinite numbers: take that LoRA out of the store"
                )
            parts.append(latents)
            progress.update(len(latents))
    return torch.cat(parts).contiguous()
