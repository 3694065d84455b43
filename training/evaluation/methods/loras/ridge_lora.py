"""Ridge regression from the face embedding to the autoencoder's latent: what a linear map predicts."""

import time
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from difflora_core.denoiser.mif import mean_embedding
from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from difflora_core.references import encode_references
from training.lora_dataset.fingerprints import Fingerprint, hash_file, hash_files
from training.people.embeddings import MAX_IMAGES_PER_PERSON, EmbeddingCache, embedding_files
from training.people.latents import cached_latents, check_layout
from training.store.loras import open_stores

from ...method_settings import MethodSettings
from ...people_folders import EvaluatedPerson, seen_references
from ..made_files import Made
from ..shared_base import SharedBase
from .encoder_files import hash_encoders
from .made_loras import MadeLoRAs, made_lora
from .ridge_regression import RidgeRegression, choose_penalty
from .store_fingerprint import store_fingerprint

LATENTS = "latents"
"""Folder, in that of the method's LoRAs, for the latents of the stores."""


class RidgeLoRAs(MadeLoRAs):
    """Fitted on the store's training people when the first person is prepared, its penalty on the validation people."""

    def __init__(self, base: SharedBase, settings: MethodSettings, subject: str, folder: Path) -> None:
        """Name the files.

        Args:
            base: The shared base model.
            settings: Of the kind ridge.
            subject: In place of {person}.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, subject, folder)
        self.settings, self.checkpoint, self.references = settings, settings.given_path, settings.references
        self.placement = (
            f'"{subject}" in place of {{person}}; LoRA at strength 1, from the mean face embedding alone; the penalty '
            "is the one that predicts the latents of the store's validation people best"
        )
        self._warm = False

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the checkpoint, the face models, the stores, the embeddings and the references.

        Raises:
            FileNotFoundError: One is not there.
            ValueError: The person has too few references, or the stores are of several layouts.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(f"there is no DiffLoRA checkpoint {self.checkpoint}")
        return {
            "checkpoint": hash_file(self.checkpoint),
            "face models": hash_encoders(self.settings)["face models"],
            "LoRAs": store_fingerprint(open_stores(self.settings.stores), "train", "validation"),
            "embeddings": hash_files(embedding_files(self.settings.embeddings)),
            "references": hash_files(seen_references(person, self.references)),
        }

    @cached_property
    def _model(self) -> DiffLoRA:
        return DiffLoRA.load(self.checkpoint, self.base.device)

    @cached_property
    def _fitted(self) -> tuple[RidgeRegression, float]:
        """The regression and its penalty."""
        training, latents = self._people("train", MAX_IMAGES_PER_PERSON)
        others, expected = self._people("validation", self.references or self.base.settings.references)
        penalty = choose_penalty(training, latents, others, expected)
        return RidgeRegression.fit(training, latents, penalty), penalty

    def _people(self, split: str, references: int) -> tuple[Tensor, Tensor]:
        """Return face embeddings (people, width), each the mean of so many images, and latents (people, values)."""
        model, stores = self._model, open_stores(self.settings.stores)
        check_layout(stores, model.lae)
        cache = EmbeddingCache.open(*self.settings.embeddings)
        cache.check(model.config.encoders)
        path = self.folder / LATENTS / f"{split}.safetensors"
        latents, people = cached_latents(stores, split, model.lae, path, str(self.base.device))
        return cache.of(people)[0].first(references)[0], latents.flatten(1)

    def release(self) -> None:
        """Free the checkpoint, its encoders and the regression."""
        self._warm = False
        for name in ("_model", "_fitted"):
            self.__dict__.pop(name, None)

    def make(self, person: EvaluatedPerson) -> Made:
        """Predict the person's LoRA; fitting is not timed.

        Raises:
            FileNotFoundError: The face models are not there.
            ValueError: No reference shows a face, or stores and embeddings don't fit the checkpoint.
        """
        penalty = self._fitted[1]
        if not self._warm:  # the first person loads the face encoder, which is not timed
            self._predict(person)
            self._warm = True
        start = time.perf_counter()
        flat = self._predict(person)
        return made_lora(LoRA(flat, self._model.layout, {"ridge_penalty": penalty}), time.perf_counter() - start)

    @torch.no_grad()
    def _predict(self, person: EvaluatedPerson) -> Tensor:
        model = self._model
        encoder = model.encoders.face(model.device, self.settings.face_models)
        faces = encode_references(list(seen_references(person, self.references)), encoder, None, unusable="skip").face
        assert faces is not None  # there is a face encoder
        latent = self._fitted[0].predict(mean_embedding(faces).cpu())
        return model.decode(latent.view(1, model.config.dit.tokens, model.config.dit.latent_width))[0].cpu()
