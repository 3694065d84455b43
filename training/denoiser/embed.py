"""`python -m training embed`: the frozen encoders' embeddings of all pictures that the pipeline's filter kept.

A stage like those of the pipeline, so it is resumed in the same way: one file and one record per person, in
<workspace>/embeddings/<face pack>+<image encoder>/. Another encoder has a folder of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difflora_core.encoders import ImageEncoder, NoFaceError
from difflora_core.images import read_picture
from difflora_core.library_logs import silence_library_logs
from difflora_core.model import EncoderNames
from training.engine.settings import read_settings
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.images.faces import largest_face, open_faces
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import run_stage
from training.people.embeddings import Pictures, write_embeddings

from .settings import DiffLoRASettings

BATCH = 16  # pictures that the image encoder sees at once; large enough that a GPU is busy


class Embed:
    """The stage."""

    gpu = True

    def __init__(self, image_encoder: Path, encoders: EncoderNames) -> None:
        """image_encoder: a CLIP vision model, a folder in transformers' format."""
        self.image_encoder, self.encoders = image_encoder, encoders
        self.name = f"embeddings/{encoders.face}+{encoders.image}"

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """People whom the filter kept. Who has other pictures than when they were embedded is embedded again.

        Raises ValueError if the filter kept nobody.
        """
        manifest = Manifest(config.stage(self.name))
        people = {r.item: _files(r) for r in Manifest(config.stage("filter")).records() if r.status == "done"}
        if not people:
            raise ValueError(f"{config.stage('filter')} has kept nobody: run the stage `filter` of the pipeline first")
        for person, files in people.items():
            record = manifest.read(person)
            whole = record and (record.status != "done" or (config.stage(self.name) / f"{person}.safetensors").exists())
            if record is not None and (record.facts.get("files") != files or not whole):
                manifest.write(replace(record, status="failed", reason="the person's pictures or file have changed"))
        return sorted(people)

    def worker(self, config: DatasetConfig, device: str) -> Callable[[str], Record]:
        """Load both encoders. device: of the image encoder; `faces.provider` says where the face models run."""
        faces, images = open_faces(config.faces), ImageEncoder.open(self.image_encoder)
        images.model.to(device)
        filtered = Manifest(config.stage("filter"))

        def work(item: str) -> Record:
            record = filtered.read(item)
            assert record is not None
            files, face, pixels, faceless = _files(record), [], [], []
            for file in files:
                picture = read_picture(config.workspace / file, file)
                try:
                    face.append(largest_face(faces, picture, file).embedding)
                except NoFaceError:  # another pack than the filter's, perhaps
                    faceless.append(file)
                    continue
                pixels.append(np.asarray(picture))
            facts = {"files": files, "faceless": faceless}
            path = config.stage(self.name) / f"{item}.safetensors"
            if not face:
                path.unlink(missing_ok=True)
                return Record(item, "dropped", f"no face was found in any of {len(files)} pictures", facts)
            seen = tuple(file for file in files if file not in faceless)
            pictures = Pictures(torch.stack(face), _embed_pictures(images, pixels, device), seen)
            write_embeddings(path, {item: pictures}, self.encoders)
            return Record(item, facts=facts)

        return work

    def finish(self, config: DatasetConfig) -> None:
        """Nothing: people don't depend on each other."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, see training/configs/difflora_*.yaml")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    settings = read_settings(DiffLoRASettings, arguments.config).embeddings
    if settings.dataset is None or settings.image_encoder is None:
        raise ValueError("embed needs embeddings.dataset, the pipeline's YAML file, whose kept pictures it embeds")
    silence_library_logs()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = embed_people(load_config(settings.dataset), settings.image_encoder, device)
    print(f"{len(Manifest(folder).done())} people in {folder}")


def encoders_of(config: DatasetConfig, image_encoder: Path) -> EncoderNames:
    """The encoders by the names that checkpoints use."""
    return EncoderNames(config.faces.pack, image_encoder.name)


def embeddings_folder(config: DatasetConfig, image_encoder: Path) -> Path:
    """Where a data set's embeddings by these encoders are."""
    return config.stage(Embed(image_encoder, encoders_of(config, image_encoder)).name)


def embed_people(config: DatasetConfig, image_encoder: Path, device: str = "cpu") -> Path:
    """Embed whoever has not been; the folder of the cache. Raises RuntimeError if some people failed."""
    run_stage(Embed(image_encoder, encoders_of(config, image_encoder)), config, device)
    folder = embeddings_folder(config, image_encoder)
    failed = [record for record in Manifest(folder).records() if record.status == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} people could not be embedded, first {failed[0].item}: {failed[0].reason}")
    return folder


def _files(record: Record) -> list[str]:
    """The kept pictures in the order of their files, as preprocess has them: those that it keeps from training, for
    measuring the loss on, stand last, and validation takes its references from the front.
    """
    return sorted(picture["file"] for picture in record.facts["kept"])


@torch.no_grad()
def _embed_pictures(encoder: ImageEncoder, pictures: Sequence[np.ndarray], device: str) -> Tensor:
    """Projected embeddings (pictures, width) of uint8 (height, width, 3) RGB pictures."""
    parts = []
    for at in range(0, len(pictures), BATCH):
        pixels = torch.stack([encoder.preprocess(picture) for picture in pictures[at : at + BATCH]])
        parts.append(encoder.model(pixel_values=pixels.to(device)).image_embeds.float().cpu())
    return torch.cat(parts)
