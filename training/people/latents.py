"""Latents of the stores' LoRAs, computed once and kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from difflora_core.autoencoder.lae_file import load_lae
from difflora_core.autoencoder.model import LAE
from difflora_core.checkpoint import HEADER
from difflora_core.files import read_tensors, write_tensors
from difflora_core.model import DiffLoRA
from training.lora_dataset.fingerprints import hash_weights
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAs, LoRAsOnDisk, in_batches, people_of
from training.store.shard import Person
from training.store.shard_file import read_header


def open_lae(path: Path) -> LAE:
    """Load a frozen LAE, from its own file or out of a whole DiffLoRA checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no LAE {path}: train one first (python -m training train-lae).")
    return DiffLoRA.load(path).lae if is_checkpoint(path) else load_lae(path)


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file is a whole DiffLoRA checkpoint, by its header.

    Raises:
        ValueError: It is no safetensors file.
    """
    return HEADER in read_header(path)[0].get("__metadata__", {})


def check_layout(stores: Sequence[LoRAStore], lae: LAE) -> None:
    """Check that an LAE was trained for the stores' layout.

    Raises:
        ValueError: It was not; the first difference is named.
    """
    for store in stores:
        if (difference := lae.layout.difference(store.layout)) is not None:
            raise ValueError(
                f"{store.folder} holds LoRAs of another layout than the LAE was trained for: {difference}. Train an "
                "LAE on this store, or name its own."
            )


def cached_latents(
    stores: Sequence[LoRAStore], split: str, lae: LAE, path: Path, device: str = "cpu"
) -> tuple[Tensor, list[Person]]:
    """Encode the LoRAs of a split, or read what was encoded before.

    Args:
        stores: Of LoRAs.
        split: Their name.
        lae: The encoder; it is moved to the device.
        path: Where the latents are kept, until the LAE or the stores' shards change.
        device: Of the encoder.

    Returns:
        Standardized latents (people, tokens, width) float32, and the people.

    Raises:
        FileNotFoundError: The split is empty.
        ValueError: A LoRA or a latent is not finite.
    """
    people = people_of(stores, split)
    if not people:
        folders = ", ".join(str(store.folder) for store in stores)
        raise FileNotFoundError(f"{folders} holds no LoRAs of split {split!r}: train or import some first.")
    files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for store in stores for p in store.paths(split)]
    key = json.dumps({"lae": digest_of_lae(lae), "shards": files, "people": people})
    if path.exists():
        tensors, metadata = read_tensors(path)
        if metadata.get("key") == key and _fits(tensors.get("latents"), len(people), lae):
            return tensors["latents"], people
    latents = _encode(LoRAsOnDisk(stores, split), people, lae.to(device), f"latents {split}")
    write_tensors(path, {"latents": latents}, {"key": key})
    return latents, people


def _fits(latents: Tensor | None, people: int, lae: LAE) -> bool:
    return latents is not None and latents.shape == (people, *lae.latent_mean.shape) and bool(latents.isfinite().all())


def digest_of_lae(lae: LAE) -> str:
    """Hash an LAE's weights, statistics and configuration: another one's latents mean something else."""
    return hash_weights(lae, json.dumps(asdict(lae.config)))


@torch.no_grad()
def _encode(loras: LoRAs, people: Sequence[Person], lae: LAE, title: str) -> Tensor:
    parts: list[Tensor] = []
    for batch in in_batches(loras, title=title):
        latents = lae.encode(batch.to(lae.mean.device)).float().cpu()
        if not (finite := latents.isfinite().all((1, 2))).all():
            person = people[sum(map(len, parts)) + int((~finite).nonzero()[0])]
            raise ValueError(f"the latent of {person} holds NaN or infinite values: take that LoRA out of the store")
        parts.append(latents)
    return torch.cat(parts).contiguous()
