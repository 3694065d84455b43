"""PhotoMaker v1: the identity encoder as our own module, and the reader of the official file.

The encoder turns reference pictures into embeddings of the width of SDXL's text embedding and fuses each with the
embedding of the class word; the results take the class word's place in the prompt (Li et al., arXiv 2312.04461,
section 3). Names of tensors are those of the public file, for they are its interface. Sizes come from the shapes.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflora_core.files import describe_content, read_tensors, replacing
from difflora_core.lora.file_formats import DOWN, read_lora
from difflora_core.lora.layout import LoRALayout

PARTS = ("id_encoder", "lora_weights")
IGNORED = "vision_model.embeddings.position_ids"  # a constant that older versions of transformers wrote
PROCESSOR = re.compile(r"^(.+)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class MLP(nn.Module):
    """Layer norm, linear, GELU, linear, and the input added where asked for: (..., wide) → (..., out)."""

    def __init__(self, wide: int, hidden: int, out: int, residual: bool) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(wide)
        self.fc1 = nn.Linear(wide, hidden)
        self.fc2 = nn.Linear(hidden, out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        change = self.fc2(F.gelu(self.fc1(self.layernorm(x))))
        return x + change if self.residual else change


class FuseModule(nn.Module):
    """Class word and identity, both (..., width), → one embedding (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1 = MLP(2 * width, width, width, residual=False)
        self.mlp2 = MLP(width, width, width, residual=True)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, word: Tensor, identity: Tensor) -> Tensor:
        mixed = self.mlp1(torch.cat([word, identity], dim=-1)) + word
        return self.layer_norm(self.mlp2(mixed))


class IdEncoder(nn.Module):
    """CLIP vision tower with two projections, one per text encoder, and the fuse module."""

    def __init__(self, vision: Mapping[str, Any], projections: tuple[int, int]) -> None:
        """vision: arguments of `transformers.CLIPVisionConfig`. projections: widths of both text encoders."""
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(**vision, projection_dim=projections[0])
        self.size = int(config.image_size)
        self.projections = projections
        self.vision_model = CLIPVisionModelWithProjection(config).vision_model
        self.visual_projection = nn.Linear(config.hidden_size, projections[0], bias=False)
        self.visual_projection_2 = nn.Linear(config.hidden_size, projections[1], bias=False)
        self.fuse_module = FuseModule(sum(projections))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The module that a state dict of the public layout fits, with its weights (float32).

        Raises ValueError naming the first tensor that is missing, unknown, of another shape, or not finite.
        """
        state = {name: tensor for name, tensor in state.items() if name != IGNORED}
        vision, projections = sizes(state)
        with torch.device("meta"):
            module = cls(vision, projections)
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
        if unknown or missing:
            word, names = ("unknown", unknown) if unknown else ("missing", missing)
            raise ValueError(f"{len(names)} tensors of PhotoMaker's identity encoder are {word}, first {names[0]}")
        for name, shape in expected.items():
            if tuple(state[name].shape) != shape:
                raise ValueError(
                    f"{name} of PhotoMaker's identity encoder is {tuple(state[name].shape)}, expected {shape}"
                )
            if not state[name].isfinite().all():
                raise ValueError(f"{name} of PhotoMaker's identity encoder holds NaN or infinite numbers")
        module = cls(vision, projections)
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return module.eval().requires_grad_(False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalized pictures (pictures, 3, size, size) → identity embeddings (pictures, width of both texts)."""
        return self.project(self.pool(pixels))

    def pool(self, pixels: Tensor) -> Tensor:
        """Normalized pictures (pictures, 3, size, size) → the tower's pooled features (pictures, width)."""
        return self.vision_model(pixel_values=pixels).pooler_output

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (..., width) → identity embeddings (..., width of both texts)."""
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1)

    def fuse(self, context: Tensor, positions: Tensor, identity: Tensor) -> Tensor:
        """The prompt with the identity in the class word's place.

        context: text embeddings (prompts, tokens, width). positions: int64 (prompts, n), where the class word stands,
        n times in a row. identity: (prompts, n, width) of n references. Returns a new (prompts, tokens, width).
        """
        rows = positions[..., None].expand(-1, -1, context.shape[-1])
        words = context.gather(1, rows)
        fused = self.fuse_module(words.to(identity.dtype), identity)
        return context.scatter(1, rows, fused.to(context.dtype))

    def preprocess(self, picture: Tensor) -> Tensor:
        """A square float picture (3, side, side) in [0, 1] → (3, size, size), by CLIP's statistics."""
        if picture.shape[-1] != self.size:
            picture = F.interpolate(picture[None], size=self.size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        return (picture - mean) / std


def sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], tuple[int, int]]:
    """The vision tower's configuration and both projections' widths, from the shapes of a state dict.

    Heads leave no trace in shapes: CLIP's are 64 wide; towers narrower than 512 (the miniature's) have heads of 16.
    """
    try:
        patches = state["vision_model.embeddings.patch_embedding.weight"].shape
        positions = state["vision_model.embeddings.position_embedding.weight"].shape[0]
        hidden = state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0]
        first, second = (state[f"{name}.weight"].shape[0] for name in ("visual_projection", "visual_projection_2"))
    except KeyError as error:
        found = next(iter(state), "none: it is empty")
        raise ValueError(
            f"PhotoMaker's identity encoder lacks {error.args[0]}; its first tensor is {found!r}"
        ) from error
    width, patch = int(patches[0]), int(patches[-1])
    layers = len({name.split(".")[3] for name in state if name.startswith("vision_model.encoder.layers.")})
    vision = {
        "hidden_size": width,
        "intermediate_size": int(hidden),
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // (64 if width >= 512 else 16)),
        "image_size": patch * round((positions - 1) ** 0.5),
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return vision, (int(first), int(second))


@dataclass(frozen=True)
class PhotoMaker:
    """What a PhotoMaker file holds: the identity encoder, and the LoRA as the file names it."""

    encoder: IdEncoder
    lora: Mapping[str, Tensor]


def read_photomaker(path: str | Path) -> PhotoMaker:
    """Read PhotoMaker v1: the official `.bin`, or a `.safetensors` whose names begin with the two parts' names.

    Nothing in the file is run: of a pickle only tensors in dictionaries are accepted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another version or another file; the message says what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no PhotoMaker file {path}; `generate: file:` names photomaker-v1.bin")
    parts = _read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)
    encoder = parts["id_encoder"]
    if perceiver := next((name for name in encoder if name.startswith("qformer_perceiver")), None):
        raise ValueError(f"{path} is PhotoMaker v2 (it holds {perceiver}); only v1 is read: get photomaker-v1.bin")
    try:
        return PhotoMaker(IdEncoder.from_state(encoder), parts["lora_weights"])
    except ValueError as error:
        raise ValueError(f"{path} is no PhotoMaker v1 file: {error}") from error


def _read_bin(path: Path) -> dict[str, dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        with path.open("rb") as file:
            pickled = file.read(2) in (b"PK", b"\x80\x02")
        what = "it is damaged, or holds more than tensors" if pickled else describe_content(path)
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as PhotoMaker: {what} ({cause})") from error
    if not isinstance(content, dict) or set(content) != set(PARTS):
        found = ", ".join(sorted(map(str, content))[:5]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is no PhotoMaker file: it holds {found or 'nothing'}, expected {' and '.join(PARTS)}")
    for part in PARTS:
        if not isinstance(content[part], Mapping) or not all(isinstance(v, Tensor) for v in content[part].values()):
            raise ValueError(f"{path} is no PhotoMaker file: {part} is not a dictionary of tensors")
    return {part: dict(content[part]) for part in PARTS}


def _read_safetensors(path: Path) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in read_tensors(path)[0].items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise ValueError(f"{path} is no PhotoMaker file: it holds {name}, expected names in {' and '.join(PARTS)}")
        parts[part][rest] = tensor
    return parts


def write_photomaker(path: str | Path, encoder: IdEncoder, lora: Mapping[str, Tensor]) -> None:
    """Write the official layout, atomically. lora: names of the official file, see `lora_names`."""
    with replacing(Path(path)) as partial:
        torch.save({"id_encoder": encoder.state_dict(), "lora_weights": dict(lora)}, partial)


def lora_names(flat: Tensor, layout: LoRALayout) -> dict[str, Tensor]:
    """A flat LoRA (numel,) under the official file's names: those of diffusers' former attention processors."""
    named = {}
    for module, factors in layout.unflatten(flat.detach()).items():
        attention, projection = module.removesuffix(".0").rsplit(".", 1)
        for role, factor in zip(("down", "up"), factors, strict=True):
            named[f"unet.{attention}.processor.{projection}_lora.{role}.weight"] = factor.clone()
    return named


def read_unet_lora(lora: Mapping[str, Tensor], unet: nn.Module) -> tuple[LoRALayout, Tensor]:
    """PhotoMaker's LoRA as a layout of the U-Net's attention projections and a flat vector (numel,) float32.

    Raises ValueError if it doesn't fit the U-Net.
    """
    renamed = {}
    for name, tensor in lora.items():
        if match := PROCESSOR.match(name):
            layer = "to_out.0" if match[2] == "out" else f"to_{match[2]}"
            name = f"{match[1]}.{layer}.lora.{match[3]}.weight"
        renamed[name] = tensor
    down = next((tensor for name, tensor in renamed.items() if name.endswith(DOWN)), None)
    if down is None:
        raise ValueError(f"PhotoMaker's lora_weights hold no down factor; first {next(iter(lora), 'none')!r}")
    layout = LoRALayout.from_unet(unet, down.shape[0])
    try:
        return layout, read_lora(renamed, layout)
    except ValueError as error:
        raise ValueError(f"PhotoMaker's LoRA does not fit the base model's U-Net: {error}") from error


@torch.no_grad()
def merge_lora(unet: nn.Module, layout: LoRALayout, flat: Tensor, strength: float = 1.0) -> None:
    """Add strength · up · down to the U-Net's weights, in place; the negative strength takes it out again (up to
    rounding).
    """
    for name, (down, up) in layout.unflatten(flat).items():
        weight = unet.get_parameter(f"{name}.weight")
        change = strength * (up.to(weight.device) @ down.to(weight.device))  # float32, whatever the weight's dtype
        weight.copy_(weight.float() + change)


def repeat_class_word(
    ids: Sequence[int], word: Sequence[int], times: int, prompt: str, length: int = 77
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt with its first class word repeated, and where it then stands.

    ids: with start and end token, unpadded. word: ids of the class word; of several the last one is repeated. times:
    references. Returns at most `length` ids, with the end token, and `times` positions.
    Raises ValueError naming the prompt: it has no class word, or so late that the repetition doesn't fit.
    """
    word = list(word)
    starts = [i for i in range(len(ids) - len(word) + 1) if list(ids[i : i + len(word)]) == word]
    if not word or not starts:
        raise ValueError(f"the class word is not in the prompt {prompt!r}: write {{person}} where it should stand")
    last = starts[0] + len(word) - 1
    if last + times > length - 1:
        raise ValueError(f"the class word, {times} times, stands behind token {length} of the prompt {prompt!r}")
    repeated = [*ids[:last], *[ids[last]] * times, *ids[last + 1 :]]
    if len(repeated) > length:
        repeated = [*repeated[: length - 1], ids[-1]]
    return repeated, list(range(last, last + times))
