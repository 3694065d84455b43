"""A method's settings: a row of the tables; names of methods, and methods of the command line."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from difflora_core.config import RefinementSettings
from difflora_core.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, check_fields
from training.dreambooth.config import DreamBoothConfig
from training.engine.config import check_warmup
from training.engine.settings import SettingsPath, absolute_path
from training.textual_inversion.config import TextualInversionConfig

Kind = Literal[
    "none",
    "mean_lora",
    "lora",
    "ridge",
    "dreambooth",
    "textual_inversion",
    "difflora",
    "photomaker",
    "instantid",
    "images",
    "comfyui",
]
USES_PATH: Mapping[Kind, str] = {
    "mean_lora": "a store of LoRAs whose split train is averaged, or a folder of LoRA files",
    "ridge": "a DiffLoRA checkpoint, whose autoencoder and face encoder are used",
    "lora": "a folder with PERSON.safetensors for each person, one file for all, or a store of LoRAs",
    "difflora": "a DiffLoRA checkpoint",
    "photomaker": "PhotoMaker v1's official file",
    "instantid": "a folder with InstantID's ip-adapter.safetensors and ControlNetModel/",
    "images": "a folder with PERSON/NUMBER_SEED.png",
    "comfyui": "a workflow in ComfyUI's API format",
}
"""What `path` is, by kind of method."""
LORA_KINDS: tuple[Kind, ...] = ("mean_lora", "lora", "ridge", "dreambooth", "difflora")
"""Methods that are a LoRA in the end."""
FACE_PACKS: Mapping[Kind, str] = {"photomaker": "buffalo_l", "instantid": "antelopev2"}
"""The packs of methods that need one."""
WITH_REFERENCES: tuple[Kind, ...] = (
    "ridge",
    "dreambooth",
    "textual_inversion",
    "difflora",
    "photomaker",
    "instantid",
    "images",
)
"""Methods that may see fewer references than there are; of a workflow its placeholders say how many."""
USED_BY: Mapping[str, tuple[Kind, ...]] = {
    "references": WITH_REFERENCES,
    "checkpoint": ("lora",),
    "stores": ("ridge",),
    "embeddings": ("ridge",),
    "training": ("dreambooth",),
    "caption": ("dreambooth", "difflora"),
    "refinement": ("difflora",),
    "textual_inversion": ("textual_inversion",),
    "mode": ("difflora",),
    "face_models": ("difflora", "ridge", "photomaker", "instantid"),
    "face_pack": ("photomaker", "instantid"),
    "image_encoder": ("difflora",),
    "style_strength": ("photomaker",),
    "adapter_scale": ("instantid",),
    "control_scale": ("instantid",),
    "pose": ("instantid",),
    "seed": ("difflora",),
    "server": ("comfyui",),
    "output_node": ("comfyui",),
    "timeout": ("comfyui",),
}
"""Kinds of methods that use a setting; any other would pass over it."""
METHOD_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))(?:\w[\w .,+()-]{0,58}[\w)]|\w)")
"""Names of methods name folders, too; Windows keeps some for devices."""
COMFYUI = "comfy:"
"""Before the workflow's file in `--method NAME=comfy:FILE`."""


@dataclass(frozen=True)
class MethodSettings:
    """A method: a row of the tables.

    Raises:
        ValueError: `path` or another setting is missing that the kind needs, or one is set that it does not use.
    """

    kind: Kind
    """What it is."""
    path: SettingsPath | None = None
    """Where it is, see `USES_PATH`."""
    references: PositiveInt | None = None
    """How many of each person's references it sees; None: all."""
    subject: str = ""
    """Words in place of {person} in the prompts, with the method's trigger; empty: the class word alone."""
    checkpoint: SettingsPath | None = None
    """lora: a DiffLoRA checkpoint through whose autoencoder LoRAs are sent before; None: none."""
    side: Literal["both", "positive"] = "both"
    """LoRAs of any kind: the prompts that the LoRA acts on; positive leaves the negative prompt the base model's own
    (hybrid guidance), as Apply LoRA's `side` does."""
    stores: tuple[SettingsPath, ...] = ()
    """ridge: stores of LoRAs, whose splits train and validation are used."""
    embeddings: tuple[SettingsPath, ...] = ()
    """ridge: folders and files of the embeddings of these people's images."""
    training: DreamBoothConfig = field(default_factory=DreamBoothConfig)
    """dreambooth: how a LoRA is trained on each person's references; the base model's dtype is the evaluation's."""
    caption: str = "a photo of a {person}"
    """dreambooth, and difflora with a refinement: of the training images."""
    refinement: RefinementSettings | None = None
    """difflora: how the LoRA is trained further on the references; None: not at all, {}: as Refine LoRA does it."""
    textual_inversion: TextualInversionConfig = field(default_factory=TextualInversionConfig)
    """textual_inversion: how a token is trained on each person's references."""
    mode: Literal["face", "image", "mean", "gate"] | None = None
    """difflora: of MIF; None is the checkpoint's."""
    face_models: SettingsPath | None = None
    """difflora, ridge: InsightFace's folder, else beside the checkpoint's folder. photomaker and instantid need it."""
    face_pack: str = ""
    """photomaker: the pack that crops the references, buffalo_l unless another is named; instantid: the pack whose
    embeddings it was trained with, antelopev2 unless another is named."""
    image_encoder: SettingsPath | None = None
    """difflora: the CLIP vision folder, else beside the checkpoint's folder."""
    style_strength: Annotated[int, Interval(ge=0, lt=100)] = 20
    """photomaker: percentage of the steps before the identity is merged in; with 100 it never would be."""
    adapter_scale: NonNegativeFloat = 0.8
    """instantid: strength of the face's tokens in the U-Net's cross-attention."""
    control_scale: NonNegativeFloat = 0.8
    """instantid: strength of IdentityNet."""
    pose: Literal["reference", "prompt"] = "reference"
    """instantid: whose keypoints IdentityNet sees: those of the first reference, or those of the base model's own image
    of the prompt, which costs a second image."""
    seed: Seed = 0
    """difflora: of the LoRA's noise, and of the refinement."""
    server: str = "http://127.0.0.1:8188"
    """comfyui: the address of a running ComfyUI."""
    output_node: str = ""
    """comfyui: title or number of the node whose image is measured; needed where several nodes save images."""
    timeout: PositiveFloat = 600.0
    """comfyui: seconds for an image."""

    def __post_init__(self) -> None:
        check_fields(self)
        expected = USES_PATH.get(self.kind)
        if expected and self.path is None:
            raise ValueError(f"path is missing: for the kind {self.kind} it is {expected}")
        if not expected and self.path is not None:
            raise ValueError(f"the kind {self.kind} has no path, found {self.path}")
        if self.side != "both" and self.kind not in LORA_KINDS:
            raise ValueError(
                f"side is {self.side}, but a method of the kind {self.kind} is no LoRA; expected both, or one of the "
                f"kinds {', '.join(LORA_KINDS)}"
            )
        self._check_unused()
        self._check_combinations()

    def _check_unused(self) -> None:
        """Refuse a setting that the kind would pass over."""
        for entry in fields(self):
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            kinds = USED_BY.get(entry.name, (self.kind,))
            if self.kind not in kinds and getattr(self, entry.name) != default:
                only = ", ".join(kinds)
                raise ValueError(
                    f"{entry.name} is set, but a method of the kind {self.kind} does not use it, only {only}"
                )

    def _check_combinations(self) -> None:
        """Check what single kinds need beside `path`, and what they can't have."""
        if self.kind == "difflora" and self.refinement is None and self.caption != MethodSettings.caption:
            raise ValueError("caption is set, but only a refinement needs it: add `refinement: {}`, or leave it out")
        if self.kind == "ridge" and not (self.stores and self.embeddings):
            raise ValueError("ridge needs stores and embeddings of the people on whom the regression is fitted")
        if self.kind == "textual_inversion" and self.subject:
            raise ValueError(f"subject is {self.subject!r}, but the learned token alone stands in place of {{person}}")
        if self.kind in FACE_PACKS and self.face_models is None:
            raise ValueError(f"face_models is missing: {self.kind} needs InsightFace's {FACE_PACKS[self.kind]}")
        if self.kind == "dreambooth" and self.training.prior_weight:
            raise ValueError("training.prior_weight is set, but there are no class images here: leave it out")
        if self.kind == "dreambooth":
            check_warmup(self.training.warmup, self.training.steps)

    @property
    def given_path(self) -> Path:
        """`path`, of a kind that has one."""
        assert self.path is not None  # checked when the settings were made
        return self.path

    @property
    def pack(self) -> str:
        """The face pack that is used."""
        return self.face_pack or FACE_PACKS.get(self.kind, "")


def check_method_names(names: Mapping[str, object]) -> None:
    """Check that names of methods can be names of folders.

    Raises:
        ValueError: There is none, or one can't.
    """
    if not names:
        raise ValueError("methods is empty: name at least one")
    for name in names:
        if not METHOD_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:60]!r} can't be a method's name: expected up to 60 letters, digits, spaces and _.,+()-, and "
                "none of Windows' devices (con, aux, …), as it names a folder"
            )
    lower = [name.lower() for name in names]
    if len(set(lower)) < len(lower):
        raise ValueError(f"methods differ in upper and lower case alone, but name folders: {', '.join(names)}")


def given_method(text: str) -> tuple[str, MethodSettings]:
    """Read `NAME=FOLDER` (images of another program) or `NAME=comfy:WORKFLOW.json`, with paths from where one is.

    Raises:
        ValueError: It is neither.
    """
    name, equals, place = text.partition("=")
    if not (name and equals and place.removeprefix(COMFYUI)):
        raise ValueError(f"found --method {text!r}, expected NAME=FOLDER or NAME={COMFYUI}WORKFLOW.json")
    kind: Kind = "comfyui" if place.startswith(COMFYUI) else "images"
    return name, MethodSettings(kind, absolute_path(Path(place.removeprefix(COMFYUI)), Path.cwd()))
