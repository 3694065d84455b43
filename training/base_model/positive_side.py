"""A LoRA on the positive prompt's side of diffusers' SDXL pipeline alone (hybrid guidance).

With classifier-free guidance the pipeline predicts each step for the negative and for the positive prompt, in this
order, as two halves of a batch, and the image moves away from the former: v = v⁻ + g (v⁺ − v⁻). If both have the LoRA,
the likeness that it brings is in both, and guidance cancels part of it. Here v⁻ is the base model's own, as with the
node Apply LoRA at `side` positive.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def positive_side(pipeline: Any) -> Iterator[None]:
    """While open, what the pipeline has loaded as LoRAs acts on the positive prompt alone, its text encoding included.

    Without guidance there is no negative prompt, and everything stays as it is.

    Args:
        pipeline: StableDiffusionXLPipeline, its LoRAs loaded and not fused with the weights.
    """
    layers = _lora_layers(pipeline.unet)
    try:
        for layer in layers:
            layer.forward = _on_positive_rows(pipeline, layer)
        pipeline.encode_prompt = _negative_without_lora(pipeline)
        yield
    finally:
        for place, name in [*((layer, "forward") for layer in layers), (pipeline, "encode_prompt")]:
            vars(place).pop(name, None)  # the class has its own


def _lora_layers(*networks: nn.Module) -> list[Any]:
    """PEFT's layers around those that LoRAs change."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for network in networks for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _on_positive_rows(pipeline: Any, layer: Any) -> Callable[..., Tensor]:
    """A layer's forward: the base layer's of the batch's first half, with the LoRA of the second."""
    with_lora = layer.forward

    def forward(rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not pipeline.do_classifier_free_guidance:
            return with_lora(rows, *args, **kwargs)
        negative, positive = rows.chunk(2)
        return torch.cat([layer.base_layer(negative, *args, **kwargs), with_lora(positive, *args, **kwargs)])

    return forward


def _negative_without_lora(pipeline: Any) -> Callable[..., tuple[Tensor | None, ...]]:
    """The pipeline's `encode_prompt`, where the text encoders have no LoRA for the negative prompt."""
    encode, layers = pipeline.encode_prompt, _lora_layers(pipeline.text_encoder, pipeline.text_encoder_2)

    def encode_prompt(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        prompt, negative, pooled, negative_pooled = encode(*args, **kwargs)
        if layers:
            try:
                for layer in layers:
                    layer.enable_adapters(False)
                _, negative, _, negative_pooled = encode(*args, **kwargs)
            finally:
                for layer in layers:
                    layer.enable_adapters(True)
        return prompt, negative, pooled, negative_pooled

    return encode_prompt
