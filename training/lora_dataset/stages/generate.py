"""Stage 2: PhotoMaker makes varied pictures of each person, or the collected pictures go on as they are.

    generate/<person>/NNN.png, generate/<person>.json: {"pictures": [{"file", "caption"}], "references": […]}

Prompts and seeds are the same for all people: pictures of two people then differ by the person, not by the dice, and so
do the LoRAs that are trained on them.
"""

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflora_core.encoders import FaceEncoder, NoFaceError
from difflora_core.images import write_picture
from training.lora_dataset.config import DatasetConfig, GenerateConfig
from training.lora_dataset.images.faces import open_faces, person_embedding
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling
from training.lora_dataset.stage import Worker

PROMPTS = Path(__file__).parents[1] / "prompts"
PLACEHOLDER = "{person}"
CROP = 1.9  # side of a reference crop in sides of the face's box: hair and chin belong to the person; our choice


class Generate:
    """The stage; see training.lora_dataset.stage."""

    name = "generate"
    gpu = True

    def items(self, config: DatasetConfig) -> list[str]:
        """The people that were collected."""
        return Manifest(config.stage("collect")).done()

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        """Load the base model, PhotoMaker and the face models, unless generating is off."""
        if not config.generate.enabled:
            return lambda person: pass_on(config, person)
        prompts = read_prompts(config.generate, config.preprocess.class_word)
        negative = read_negative(config.generate)
        settings, encoder = config.generate, open_faces(config.faces)
        pipeline = PhotoMakerPipeline.open(config.base, settings.file, device, settings.lcm_lora)
        pipeline.tokens(prompts, config.preprocess.class_word, settings.references)  # a bad prompt fails here, once
        return lambda person: generate(config, person, pipeline, encoder, prompts, negative)

    def finish(self, config: DatasetConfig) -> None:
        """Nothing looks at all people together."""


GENERATE = Generate()


def generate(
    config: DatasetConfig,
    person: str,
    pipeline: PhotoMakerPipeline,
    encoder: FaceEncoder,
    prompts: Sequence[str],
    negative: str,
) -> Record:
    """Draw a person's pictures into generate/<person>/, replacing what an interrupted run left there."""
    settings = config.generate
    names = collected(config, person)
    mean = person_embedding(config, person)
    paths = [config.stage("collect") / person / name for name in names]
    references = choose_references(paths, encoder, torch.from_numpy(mean), settings.references)
    identity = pipeline.identity([crop for _, crop in references])
    folder = config.stage("generate") / person
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sampling = Sampling(settings.size, settings.steps, settings.guidance, settings.style_strength)
    captions = [prompts[number % len(prompts)] for number in range(settings.pictures)]
    entries = []
    for start in range(0, len(captions), max(1, settings.batch)):
        numbers = range(start, min(len(captions), start + max(1, settings.batch)))
        drawn = pipeline.draw(
            [captions[number] for number in numbers],
            negative,
            config.preprocess.class_word,
            identity,
            [picture_seed(settings.seed, number) for number in numbers],
            sampling,
        )
        for number, picture in zip(numbers, drawn, strict=True):
            write_picture(folder / f"{number:03d}.png", picture)
            entries.append({"file": f"generate/{person}/{number:03d}.png", "caption": captions[number]})
    return Record(person, facts={"pictures": entries, "references": [path.name for path, _ in references]})


def pass_on(config: DatasetConfig, person: str) -> Record:
    """The collected pictures as if they were generated, with the captions beside them."""
    default = f"a portrait of a {config.preprocess.class_word}"
    entries = []
    for name in collected(config, person):
        sidecar = (config.stage("collect") / person / name).with_suffix(".txt")
        caption = sidecar.read_text(encoding="utf-8", errors="replace").strip() if sidecar.is_file() else ""
        entries.append({"file": f"collect/{person}/{name}", "caption": " ".join(caption.split()) or default})
    return Record(person, facts={"pictures": entries})


def collected(config: DatasetConfig, person: str) -> list[str]:
    """File names of a person's collected pictures. Raises ValueError if there are none."""
    record = Manifest(config.stage("collect")).read(person)
    names = list(record.facts.get("pictures", [])) if record else []
    if not names:
        raise ValueError(f"{person} has no collected pictures: run the stage collect first")
    return names


def choose_references(
    paths: Sequence[Path], encoder: FaceEncoder, mean: Tensor, count: int
) -> list[tuple[Path, Tensor]]:
    """The `count` pictures whose face is nearest to the person's mean, and their crops (3, side, side) in [0, 1].

    mean: unit-length embedding (width,). Pictures in which no face is found are left out.
    Raises NoFaceError if that leaves none.
    """
    found = []
    for order, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        image = torch.from_numpy(np.array(pixels)).float() / 255.0
        try:
            face = next(encoder.pictures(image[None]))
        except NoFaceError:
            continue
        similarity = float(torch.nn.functional.cosine_similarity(face.embedding, mean.float(), dim=0))
        box = face.boxes[face.chosen, :4].tolist()
        found.append((-similarity, order, path, crop_face(image.permute(2, 0, 1), box)))
    if not found:
        raise NoFaceError(f"none of the {len(paths)} collected pictures shows a face that the detector finds")
    return [(path, crop) for _, _, path, crop in sorted(found, key=lambda entry: entry[:2])[: max(1, count)]]


def crop_face(picture: Tensor, box: Sequence[float]) -> Tensor:
    """The square of `CROP` times the box's longer side around its center, moved and shrunk to lie in the picture.

    picture: (3, height, width). box: x1, y1, x2, y2 in pixels.
    """
    height, width = picture.shape[-2:]
    x1, y1, x2, y2 = box
    side = int(max(1, min(height, width, round(CROP * max(x2 - x1, y2 - y1)))))
    left = int(min(max(0, round((x1 + x2 - side) / 2)), width - side))
    top = int(min(max(0, round((y1 + y2 - side) / 2)), height - side))
    return picture[:, top : top + side, left : left + side]


def read_prompts(settings: GenerateConfig, class_word: str) -> list[str]:
    """Prompts with the class word in the placeholder's place. Raises ValueError naming one that has neither."""
    path = settings.prompts or PROMPTS / "portraits.txt"
    prompts = read_lines(path)
    if not prompts:
        raise ValueError(f"{path} holds no prompts: write one a line, with {PLACEHOLDER} for the class word")
    for prompt in prompts:
        if PLACEHOLDER not in prompt and not re.search(rf"\b{re.escape(class_word)}\b", prompt, re.IGNORECASE):
            raise ValueError(f"{path}: there is neither {PLACEHOLDER} nor {class_word!r} in the prompt {prompt!r}")
    return [prompt.replace(PLACEHOLDER, class_word) for prompt in prompts]


def read_negative(settings: GenerateConfig) -> str:
    """The negative prompt, its lines joined; a file without lines is the empty prompt."""
    return ", ".join(read_lines(settings.negative or PROMPTS / "negative.txt"))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without blank ones and those that begin with #. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def picture_seed(seed: int, number: int) -> int:
    """Seed of a picture: of 63 bits, so that two settings' seeds don't overlap."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:8], "big") >> 1
