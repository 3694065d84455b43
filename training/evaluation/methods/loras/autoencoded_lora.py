"""LoRA files through a checkpoint's autoencoder: what is lost before anything is predicted."""

from functools import cached_property
from pathlib import Path

from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from training.lora_dataset.fingerprints import Fingerprint, hash_file

from ...people_folders import EvaluatedPerson
from ..made_files import Made
from ..shared_base import SharedBase
from .given_loras import lora_file
from .made_loras import MadeLoRAs, made_lora


class AutoencodedLoRAs(MadeLoRAs):
    """FOLDER/PERSON.safetensors, encoded and decoded."""

    def __init__(self, base: SharedBase, files: Path, checkpoint: Path, subject: str, folder: Path) -> None:
        """Name the files.

        Args:
            base: The shared base model.
            files: A folder with a LoRA for each person, or one LoRA for all.
            checkpoint: Whose autoencoder.
            subject: In place of {person}.
            folder: For PERSON.safetensors.
        """
        super().__init__(base, subject, folder)
        self.files, self.checkpoint, self.references = files, checkpoint, None
        self.placement = f'"{subject}" in place of {{person}}; LoRA through the autoencoder of {checkpoint.name}'

    def origin(self, person: EvaluatedPerson) -> Fingerprint:
        """Of the person's file and the checkpoint.

        Raises:
            FileNotFoundError: One is not there.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(f"there is no DiffLoRA checkpoint {self.checkpoint}")
        return {"checkpoint": hash_file(self.checkpoint), "LoRA": hash_file(lora_file(self.files, person))}

    @cached_property
    def _model(self) -> DiffLoRA:
        return DiffLoRA.load(self.checkpoint, self.base.device)

    def release(self) -> None:
        """Free the checkpoint."""
        self.__dict__.pop("_model", None)

    def make(self, person: EvaluatedPerson) -> Made:
        """Encode and decode the person's file; the time is not measured, since a LoRA had to be there.

        Raises:
            ValueError: The file is no LoRA of the checkpoint's layout.
        """
        model = self._model
        flat = read_lora(lora_file(self.files, person), model.layout)
        decoded = model.decode(model.encode(flat[None]))[0].cpu()
        return made_lora(LoRA(decoded, model.layout, {"autoencoder": self.checkpoint.name}), None)
