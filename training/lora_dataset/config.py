"""The pipeline's settings: one YAML file per set-up, read into the dataclasses below.

Paths in a file are relative to the file's own folder. A key that no dataclass has is an error, not a comment.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from training.engine.settings import read_settings


@dataclass(frozen=True)
class FacesConfig:
    """InsightFace's model pack: root/models/<pack>. provider: of onnxruntime, without `ExecutionProvider`."""

    pack: str = "buffalo_l"
    root: Path = Path("insightface")
    provider: str = "CPU"


@dataclass(frozen=True)
class CollectConfig:
    """source: `pictures` (a folder, each picture a person), `people` (a folder per person) or `datasets` (Hugging Face,
    a local path or a name in the local cache). path: where. label: with `datasets`, the column that names the person;
    without it each row is a person. min_face: pixels of a face's shorter side. same_person: cosine from which two
    entries are one person; action: what then happens to the second. same_picture: cosine from which two pictures of a
    person count once. limit: of people, 0 for all.
    """

    source: Literal["pictures", "people", "datasets"] = "people"
    path: str = ""
    image: str = "image"
    label: str = ""
    min_face: int = 64
    same_person: float = 0.6
    action: Literal["merge", "drop"] = "merge"
    same_picture: float = 0.995
    max_pictures: int = 16
    limit: int = 0


@dataclass(frozen=True)
class GenerateConfig:
    """PhotoMaker. enabled: off, the collected pictures themselves go on. file: the official v1 file layout. pictures:
    per person. prompts, negative: files of lines, empty for the project's own. style_strength: percent of the steps
    that run before the identity comes in (delayed merging). references: pictures of the person that are fused.
    """

    enabled: bool = True
    file: Path = Path("photomaker-v1.bin")
    pictures: int = 24
    prompts: Path | None = None
    negative: Path | None = None
    size: int = 1024
    steps: int = 30
    guidance: float = 5.0
    style_strength: int = 20
    references: int = 4
    lcm_lora: Path | None = None
    batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class FilterConfig:
    """A picture is dropped if its face's shorter side has fewer than min_face pixels, if the face's sharpness (variance
    of the Laplacian of the 112-pixel crop, in grey values of 0 to 255) is below min_sharpness, if its cosine with the
    person is below min_similarity, if the head is turned by more than max_yaw or max_pitch degrees (estimated from five
    landmarks), or if its cosine with a better picture is above same_picture. A person with fewer than min_pictures left
    is dropped. several_faces: whether more than one face drops a picture.
    """

    min_face: int = 128
    min_sharpness: float = 40.0
    min_similarity: float = 0.35
    max_yaw: float = 50.0
    max_pitch: float = 40.0
    same_picture: float = 0.995
    min_pictures: int = 8
    several_faces: bool = True


@dataclass(frozen=True)
class PreprocessConfig:
    """size: pixels of the square training picture. margin: of the crop around the face, in face sizes; 0 keeps the
    picture's own center square. class_word: of captions. pictures: per person, the best first; 0 for all. held_out: of
    them are kept from training, for verify to measure the loss on; 0 for none.
    """

    size: int = 1024
    margin: float = 0.0
    class_word: str = "person"
    pictures: int = 0
    held_out: int = 2
    batch: int = 4


@dataclass(frozen=True)
class TeacherConfig:
    """DreamBooth. rank, feed_forward: of the layout. people: trained together. rows: pictures of each per step.
    shared_noise: one noise, timestep and caption sequence for all people. min_snr_gamma: 0 is off. prior_weight: of the
    prior preservation loss, 0 is off. dtype: of the frozen network, the factors stay float32.
    """

    rank: int = 4
    feed_forward: bool = False
    people: int = 4
    steps: int = 400
    rows: int = 1
    learning_rate: float = 1e-3
    warmup: int = 20
    seed: int = 0
    shared_noise: bool = True
    min_snr_gamma: float = 0.0
    prior_weight: float = 0.0
    dtype: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class PackConfig:
    """validation, test: shares of people, drawn by the hash of the name. canonical: store the canonical form of every
    LoRA instead of the raw factors. shard: people per file.
    """

    validation: float = 0.03
    test: float = 0.03
    canonical: bool = False
    shard: int = 64


@dataclass(frozen=True)
class VerifyConfig:
    """people: how many teachers are looked at. pictures: drawn with each."""

    people: int = 8
    pictures: int = 4
    steps: int = 30
    guidance: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class DatasetConfig:
    """All stages. workspace: the folder where everything lies. base: SDXL as a diffusers folder."""

    workspace: Path
    base: Path
    faces: FacesConfig = field(default_factory=FacesConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    dreambooth: TeacherConfig = field(default_factory=TeacherConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.workspace / name


def load_config(path: str | Path) -> DatasetConfig:
    """Read a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, a key is unknown, or a value has another type than the field.
    """
    path = Path(path)
    config = read_settings(DatasetConfig, path)
    # The only path that may also be a name, of a data set in the local cache
    source = (path.parent / Path(config.collect.path).expanduser()).resolve()
    if not config.collect.path or (config.collect.source == "datasets" and not source.exists()):
        return config
    return replace(config, collect=replace(config.collect, path=str(source)))
