"""InstantID's official files: what they have to hold, name by name and shape by shape.

    FOLDER/ip-adapter.safetensors       image_proj.… (the Resampler), ip_adapter.N.to_{k,v}_ip.weight
    FOLDER/ControlNetModel/config.json, diffusion_pytorch_model.safetensors

The first is published as a pickle, ip-adapter.bin, which is not read; docs/training.md says how to convert it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflora_core.fields import read_json_file
from difflora_core.files import read_tensors, replacing, write_tensors
from difflora_core.network_files import read_tensors_by_part

from .identity_net import IdentityNet

ADAPTER, CONTROL = "ip-adapter.safetensors", "ControlNetModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = ("image_proj", "ip_adapter")
DEPTH, HEAD, EXPANSION = 4, 64, 4
"""Of the Resampler: layers, width of a head, width of the feed-forward layers in its own; as diffusers takes them."""
LIKE_UNET = ("block_out_channels", "down_block_types", "cross_attention_dim", "addition_embed_type")
"""Entries of IdentityNet's configuration that have to be those of the U-Net."""


@dataclass(frozen=True)
class InstantID:
    """What the files hold."""

    adapter: Mapping[str, Mapping[str, Tensor]]
    """`image_proj` and `ip_adapter`, by the official names."""
    control_config: Mapping[str, Any]
    """IdentityNet's, as diffusers writes it."""
    control: Mapping[str, Tensor]
    """IdentityNet's weights."""

    def check(self, unet: Any) -> None:
        """Check that the adapter has all tensors that diffusers reads, of the shapes that fit a U-Net, and no other.

        Raises:
            ValueError: It has not; the first difference is named.
        """
        latents = self.adapter["image_proj"].get("latents")
        proj_in = self.adapter["image_proj"].get("proj_in.weight")
        if latents is None or latents.ndim != 3 or latents.shape[2] % HEAD or proj_in is None or proj_in.ndim != 2:
            raise ValueError(
                f"the Resampler has no latents (1, queries, a multiple of {HEAD}), or no proj_in.weight (width, face)"
            )
        queries, width = latents.shape[1:]
        context = unet.config.cross_attention_dim
        _compare("image_proj", self.adapter["image_proj"], resampler_shapes(width, queries, proj_in.shape[1], context))
        _compare("ip_adapter", self.adapter["ip_adapter"], attention_shapes(unet))
        for name in LIKE_UNET:
            found, expected = self.control_config.get(name), getattr(unet.config, name)
            if json.dumps(found) != json.dumps(expected):
                raise ValueError(
                    f"IdentityNet's {name} is {found}, the U-Net's {expected}: it is for another base model"
                )

    def identity_net(self) -> IdentityNet:
        """Make IdentityNet.

        Raises:
            ValueError: The weights are not those of its configuration.
        """
        with torch.device("meta"):
            net = IdentityNet.from_config(dict(self.control_config))
        _compare("IdentityNet", self.control, {name: tuple(t.shape) for name, t in net.state_dict().items()})
        net.load_state_dict(dict(self.control), assign=True)
        return net.requires_grad_(False).eval()


def resampler_shapes(width: int, queries: int, face: int, context: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the Resampler's tensors.

    Args:
        width: Of its layers; the official one's is 1280.
        queries: How many tokens it makes; 16.
        face: Width of the face embedding; 512.
        context: Width of the tokens, the U-Net's cross_attention_dim; 2048.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, queries, width),
        "proj_in.weight": (width, face),
        "proj_in.bias": (width,),
        "proj_out.weight": (context, width),
        "proj_out.bias": (context,),
        "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }
    for layer in range(DEPTH):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for linear, out, into in (
            ("0.to_q", width, width),
            ("0.to_kv", 2 * width, width),
            ("0.to_out", width, width),
            ("1.1", EXPANSION * width, width),
            ("1.3", width, EXPANSION * width),
        ):
            shapes[f"layers.{layer}.{linear}.weight"] = (out, into)
    return shapes


def attention_shapes(unet: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the adapter's keys and values, numbered as the U-Net's attention layers: down, up, mid."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            weight = unet.get_parameter(f"{name.removesuffix('.processor')}.to_k.weight")
            shapes |= {f"{number}.to_{kind}_ip.weight": tuple(weight.shape) for kind in "kv"}
    return shapes


def _compare(part: str, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    for what, names in (("lacks", expected.keys() - found.keys()), ("has the unknown", found.keys() - expected.keys())):
        if names:
            raise ValueError(f"{part} {what} {min(names)} ({len(names)} tensors in all)")
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{part}: {name} has the shape {tuple(found[name].shape)}, expected {shape}")
        if not found[name].isfinite().all():
            raise ValueError(f"{part}: {name} holds NaN or infinite values")


def read_instantid(folder: Path) -> InstantID:
    """Read a folder.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: One is a pickle, damaged, or another model's.
    """
    adapter = folder / ADAPTER
    if not adapter.is_file() and adapter.with_suffix(".bin").is_file():
        raise ValueError(
            f"{adapter.with_suffix('.bin')} is a pickle, which is not read, because a pickle can run code: convert it "
            f"once to {ADAPTER} by the command in docs/training.md"
        )
    parts = read_tensors_by_part(adapter, PARTS, "InstantID's")
    config = folder / CONTROL / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"there is no {config}: InstantID has a folder {CONTROL} beside {ADAPTER}")
    values = read_json_file(config)
    return InstantID(parts, values, read_tensors(folder / CONTROL / WEIGHTS)[0])


def write_instantid(folder: Path, instantid: InstantID) -> None:
    """Write the official layout; the adapter, which is written last, makes it whole."""
    write_tensors(folder / CONTROL / WEIGHTS, instantid.control)
    with replacing(folder / CONTROL / "config.json") as partial:
        partial.write_text(json.dumps(dict(instantid.control_config)), encoding="utf-8")
    tensors = {f"{part}.{name}": t for part in PARTS for name, t in instantid.adapter[part].items()}
    write_tensors(folder / ADAPTER, tensors)
