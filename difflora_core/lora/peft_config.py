"""PEFT's configuration of a LoRA, which has what its tensors lack: the factor of ΔW = up · down.

PEFT writes it beside the tensors (`adapter_config.json`), diffusers into the file's header.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..fields import read_json, read_json_file

CONFIG_FILE = "adapter_config.json"
HEADER_KEY = "lora_adapter_metadata"
RAW_PREFIX = "base_model.model."
"""What PEFT's own files put before the names of layers; diffusers' have none or `unet.`."""
BASE_CHANGING = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` that change the base model's weights, too."""
OTHER_VARIANTS = ("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config")
"""Fields that make ΔW something else than scale · up · down."""
MAX_VALUE = 1e9
"""Above every rank and alpha; NaN is not below it, and JSON's integers may be larger than any float."""
_QUANTIFIED_GROUP = re.compile(r"\)[*+?{]")


@dataclass(frozen=True)
class PEFTConfig:
    """What decides a layer's scale."""

    source: str
    """Where it is from, for messages."""
    rank: int
    """`r`."""
    alpha: float
    """`lora_alpha`."""
    rank_pattern: Mapping[str, float]
    """Other ranks, by regular expressions of layers."""
    alpha_pattern: Mapping[str, float]
    """Other alphas, likewise."""
    rank_stabilized: bool
    """The scale is alpha / √rank instead of alpha / rank."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Self:
        """Read PEFT's fields.

        Raises:
            ValueError: It is of another method, needs a changed base model, or has impossible values.
        """
        if (method := values.get("peft_type", "LORA")) != "LORA":
            raise ValueError(f"{source} is of PEFT's {method}, which is another method than LoRA: not supported.")
        init = values.get("init_lora_weights")
        if isinstance(init, str) and init.lower().startswith(BASE_CHANGING):
            raise ValueError(
                f"{source} says init_lora_weights {init!r}: the LoRA belongs to a base model whose weights PEFT "
                "changed. Save it with `path_initial_model_for_weight_conversion`, which makes it an ordinary LoRA."
            )
        if variant := next((name for name in OTHER_VARIANTS if values.get(name)), None):
            raise ValueError(f"{source} has {variant}, which is more than a LoRA: not supported.")
        rank, alpha = values.get("r"), values.get("lora_alpha")
        if not (
            isinstance(rank, int)
            and 1 <= rank < MAX_VALUE
            and isinstance(alpha, int | float)
            and abs(alpha) < MAX_VALUE
        ):
            raise ValueError(f"{source} has r {rank!r} and lora_alpha {alpha!r}, expected a rank and a number.")
        patterns = {name: values.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
        for name, pattern in patterns.items():
            _check_pattern(pattern, f"{name} of {source}")
        return cls(source, rank, float(alpha), **patterns, rank_stabilized=bool(values.get("use_rslora")))

    def scale(self, layer: str, rank: int) -> float:
        """Return the factor of up · down.

        Args:
            layer: As PEFT calls it, without the prefix of all layers.
            rank: Of the tensors.

        Raises:
            ValueError: The tensors have another rank than the configuration says.
        """
        expected = _of_layer(self.rank_pattern, layer, self.rank)
        if rank != expected:
            raise ValueError(
                f"The LoRA has rank {rank} in {layer}, and {self.source} says {expected:g}: it is of another LoRA."
            )
        alpha = _of_layer(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_configs(path: Path | None, metadata: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, PEFTConfig]:
    """Find the configurations of a LoRA file's tensors.

    Args:
        path: Of the file; None for tensors without a file.
        metadata: Of the file's header.
        prefixes: Before the names of layers in the network, `unet.` and none.

    Returns:
        Configurations by what stands before the names of their layers.

    Raises:
        ValueError: One is damaged, or see `PEFTConfig.from_dict`.
    """
    found = {}
    if HEADER_KEY in metadata:
        source = f"{HEADER_KEY} in the file's header"
        values = read_json(metadata[HEADER_KEY], source)
        for prefix in prefixes:
            own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            if "r" in own:
                found[prefix] = PEFTConfig.from_dict(own, source)
    beside = None if path is None else path.with_name(CONFIG_FILE)
    if beside is not None and beside.is_file():
        found[RAW_PREFIX] = PEFTConfig.from_dict(read_json_file(beside), str(beside))
    return found


def _check_pattern(pattern: Any, source: str) -> None:
    """Refuse what is no table of numbers, and expressions on which matching could take forever."""
    if not isinstance(pattern, Mapping) or not all(
        isinstance(value, int | float) and abs(value) < MAX_VALUE for value in pattern.values()
    ):
        raise ValueError(f"{source} is not a table of numbers.")
    for expression in pattern:
        if _QUANTIFIED_GROUP.search(expression) or sum(map(expression.count, "*+{")) > 3 or len(expression) > 300:
            raise ValueError(f"{source} has the expression {expression!r:.100}, which is too complex.")
        try:
            re.compile(expression)
        except re.error as error:
            raise ValueError(f"{source} has {expression!r:.100}, which is no regular expression: {error}.") from error


def _of_layer(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """Return the value of the first expression that matches the end of the layer's name, from a dot on."""
    matching = (value for expression, value in pattern.items() if re.match(rf"(.*\.)?({expression})$", layer))
    return next(matching, default)
