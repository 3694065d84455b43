"""Names of tensors in LoRA files: which layer, and what the tensor is to it.

Programs differ in the layer's name, which is the base model's part (`base_model`), and in the suffix, which is here.
"""

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["down", "up", "mid", "alpha", "difference", "bias", "other method", "unknown"]
"""What a tensor is to its layer: factors of ΔW = up · down, the middle one of a convolution's three, alpha of the
scale alpha / rank, a whole difference of weights, anything of a bias, or of another method than LoRA."""

_ADAPTER = r"(?:\.(?P<adapter>[^.]+))?"
_ENDINGS: tuple[tuple[Role, str | None, str], ...] = (
    # kohya and LyCORIS; diffusers before PEFT, three ways; PEFT, with and without an adapter's name; Mochi's
    ("down", None, r"\.lora_down\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight"),
    ("down", None, rf"\.lora_A{_ADAPTER}\.weight|\.lora_A"),
    ("up", None, r"\.lora_up\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight"),
    ("up", None, rf"\.lora_B{_ADAPTER}\.weight|\.lora_B"),
    ("mid", None, r"\.lora_mid\.weight"),
    ("alpha", None, r"(?:_lora|\.lora)?\.alpha"),
    ("other method", "DoRA", rf"\.dora_scale|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?"),
    ("other method", "LoHa", r"\.hada_(?:w[12]_[ab]|t[12])"),
    ("other method", "LoKr", r"\.lokr_(?:w[12](?:_[ab])?|t2)"),
    ("other method", "OFT", r"\.(?:b?oft_\w+|rescale)(?:\.weight)?"),
    ("other method", "GLoRA", r"\.[ab][12]\.weight"),
    ("other method", "AdaLoRA", r"\.(?:lora_E|ranknum)"),
    ("other method", "VeRA", r"\.vera_lambda_[bd]"),
    ("other method", "IA3", r"\.(?:ia3_l|on_input)"),
    ("bias", None, rf"\.(?:diff_b|b_norm)|\.lora_(?:up|down)\.bias|\.lora_B{_ADAPTER}\.bias"),
    ("difference", None, r"\.(?:diff|w_norm|set_weight|reshape_weight)"),
)
_PATTERNS = tuple((role, method, re.compile(rf"(?P<layer>.+?)(?:{ending})")) for role, method, ending in _ENDINGS)
"""The layer is as short as it can be: what an ending may begin with, such as alpha's `_lora`, is not the layer's."""
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)$")


@dataclass(frozen=True)
class TensorName:
    """A tensor's name, taken apart."""

    layer: str
    """Name of the layer as the file has it; former attention processors' names are turned into those of layers."""
    role: Role
    """What the tensor is to the layer."""
    adapter: str | None = None
    """PEFT's name of the adapter, where the tensor's name has one."""
    method: str | None = None
    """Name of another method than LoRA."""


def parse(key: str) -> TensorName:
    """Take a tensor's name apart; where the suffix is unknown the layer is all but the last part."""
    for role, method, pattern in _PATTERNS:
        if match := pattern.fullmatch(key):
            return TensorName(_layer(match["layer"]), role, match.groupdict().get("adapter"), method)
    return TensorName(_layer(key.rpartition(".")[0] or key), "unknown")


def _layer(name: str) -> str:
    """Turn `attn1.processor.to_out`, of diffusers in 2023, into `attn1.to_out.0`."""
    match = _PROCESSOR.search(name)
    if match is None:
        return name
    return f"{name[: match.start()]}.to_{match[1]}{'.0' if match[1] == 'out' else ''}"
