"""`python -m training embed`: the frozen encoders' embeddings of all images that the dataset's filter kept.

A stage like those of the dataset pipeline, resumed in the same way: one file and one record per person, in
<workspace>/embeddings/<face pack>+<image encoder>/. Another encoder has a folder of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from difflora_core.command_line import silence_library_logs
from difflora_core.config import EncoderNames
from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError
from difflora_core.encoders.image_encoder import ImageEncoder
from difflora_core.images import read_image
from training.engine.settings import read_section
from training.lora_dataset.config import DatasetConfig, load_config
from training.lora_dataset.fingerprints import Fingerprint, hash_face_models, hash_file, hash_files, hash_value
from training.lora_dataset.images.faces import largest_face, open_faces
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker, done_before
from training.lora_dataset.stage_run import run_stage
from training.lora_dataset.workspace_lock import workspace_lock

from .config import EmbeddingSettings
from .embeddings import HOW_TO_EMBED, EmbeddingCache, ImageEmbeddings, write_embeddings


class Embed(Stage):
    """The stage. An item is a person."""

    gpu = True

    def __init__(self, image_encoder: Path, encoders: EncoderNames) -> None:
        """Name the encoders.

        Args:
            image_encoder: A CLIP vision model, a folder in transformers' format.
            encoders: The names that checkpoints use.
        """
        self.image_encoder, self.encoders = image_encoder, encoders
        self.name = f"embeddings/{encoders.face}+{encoders.image}"

    def items(self, config: DatasetConfig) -> Sequence[str]:
        """List the people whom the filter kept.

        Raises:
            ValueError: The filter kept nobody.
        """
        return done_before(config, "filter")

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        """Of a person: the kept images and the encoders' files."""
        filtered = Manifest(config.stage("filter"))
        encoder = sorted(path for path in self.image_encoder.glob("*") if path.is_file())
        common = {"face models": hash_face_models(config.faces), "image encoder": hash_files(encoder)}

        def fingerprint(item: str) -> Fingerprint:
            record = filtered.read(item)
            files = kept_files(record) if record else []
            return {"images": hash_value([[file, hash_file(config.workspace / file)] for file in files]), **common}

        return fingerprint

    def begin(self, config: DatasetConfig) -> None:
        """Mark people as failed whose file somebody has deleted: they are embedded again."""
        manifest = Manifest(config.stage(self.name))
        for record in list(manifest.records()):
            if record.status == "done" and not (manifest.folder / f"{record.item}.safetensors").exists():
                manifest.write(replace(record, status="failed", reason="the person's file is missing"))

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load both encoders.

        Args:
            config: Of the dataset; `faces.provider` says where the face models run.
            device: Of the image encoder.
        """
        face_encoder, image_encoder = open_faces(config.faces), ImageEncoder.open(self.image_encoder, device)
        filtered, fingerprint = Manifest(config.stage("filter")), self.fingerprints(config)

        def work(item: str) -> Record:
            record = filtered.read(item)
            assert record is not None
            files = kept_files(record)
            embeddings = embed_images(config.workspace, files, face_encoder, image_encoder)
            used = () if embeddings is None else embeddings.files
            facts = {"files": files, "faceless": [file for file in files if file not in used]}
            path = config.stage(self.name) / f"{item}.safetensors"
            if embeddings is None:
                path.unlink(missing_ok=True)
                return Record(item, "dropped", f"no face was found in any of {len(files)} images", facts)
            embeddings = replace(embeddings, made_from=hash_value(fingerprint(item)))
            write_embeddings(path, {item: embeddings}, self.encoders)
            return Record(item, facts=facts)

        return work


def embed_images(
    folder: Path, files: Sequence[str], face_encoder: FaceEncoder, image_encoder: ImageEncoder
) -> ImageEmbeddings | None:
    """Embed a person's images but those without a face; None if no image shows one.

    Args:
        folder: To which the files' names are relative.
        files: Of the images.
        face_encoder: Of faces.
        image_encoder: Of whole images.
    """
    faces, pixels, used = [], [], []
    for file in files:
        image = read_image(folder / file, file)
        try:
            face = largest_face(face_encoder, image, file)
        except NoFaceError:  # the filter may have used another pack
            continue
        faces.append(face.embedding)
        # Turned as the face was, as references are: the image encoder, too, knows upright people
        pixels.append(np.rot90(np.asarray(image), face.quarter_turns))
        used.append(file)
    if not faces:
        return None
    return ImageEmbeddings(torch.stack(faces), image_encoder.encode(pixels).float().cpu(), tuple(used))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--config", type=Path, required=True, help="a YAML file, see training/recipes/*/4_train_difflora.yaml"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    silence_library_logs()
    settings = read_section(EmbeddingSettings, arguments.config, "embeddings")
    if settings.dataset is None or settings.image_encoder is None:
        raise ValueError("embed needs embeddings.dataset, the dataset's YAML file, whose kept images it embeds")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = embed_people(load_config(settings.dataset), settings.image_encoder, device)
    print(f"{len(Manifest(folder).done())} people in {folder}")


def encoders_of(config: DatasetConfig, image_encoder: Path) -> EncoderNames:
    """Return the encoders' names that checkpoints use."""
    return EncoderNames(config.faces.pack, image_encoder.name)


def embed_people(config: DatasetConfig, image_encoder: Path, device: str = "cpu") -> Path:
    """Embed all people who have not been embedded; return the folder.

    Raises:
        RuntimeError: Some people failed.
    """
    with workspace_lock(config.workspace):
        run_stage(Embed(image_encoder, encoders_of(config, image_encoder)), config, device)
    folder = config.embeddings(image_encoder)
    failed = [record for record in Manifest(folder).records() if record.status == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} people could not be embedded, first {failed[0].item}: {failed[0].reason}")
    return folder


def embed_and_open(
    own: EmbeddingSettings, encoders: EncoderNames, widths: tuple[int | None, int | None], accelerator: Accelerator
) -> EmbeddingCache:
    """Open the configured embeddings; where a dataset is named and this is the only process, make them first.

    Args:
        own: Where they are, or what to make them from.
        encoders: That they have to be of.
        widths: Of face and image embeddings; None is whatever there is.
        accelerator: Of the run.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are of other encoders or widths than the configuration says.
    """
    places: tuple[Path, ...] = own.cache
    if own.dataset is not None:
        assert own.image_encoder is not None
        dataset = load_config(own.dataset)
        if encoders_of(dataset, own.image_encoder) != encoders:
            raise ValueError(
                f"{own.dataset} and embeddings.image_encoder name the encoders {dataset.faces.pack} and "
                f"{own.image_encoder.name}, `encoders` says {encoders.face} and {encoders.image}."
            )
        places = (dataset.embeddings(own.image_encoder),)
        if accelerator.num_processes == 1:
            embed_people(dataset, own.image_encoder, str(accelerator.device))
        elif not places[0].is_dir():  # the others would wait for hours at the next barrier, and be ended there
            raise FileNotFoundError(f"{places[0]} holds no embeddings: {HOW_TO_EMBED} first, in one process.")
    cache = EmbeddingCache.open(*places)
    cache.check(encoders, (widths[0] or cache.widths[0], widths[1] or cache.widths[1]))
    return cache


def kept_files(record: Record) -> list[str]:
    """Return a person's kept images in the order of their numbers, as preprocess has them.

    Those that it keeps from training, for measuring the loss on, stand last, and validation takes its references from
    the front.
    """
    return sorted((image["file"] for image in record.facts["kept"]), key=lambda file: (len(file), file))
