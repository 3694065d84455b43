"""Run by a test in its own process: Refine LoRA's training on a small network of ComfyUI's layers, results as JSON.

python refine_weights.py HOST BASE
"""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import torch
from host_process import load_pack, module  # first: it makes ComfyUI importable

import comfy.model_sampling  # isort: skip
import comfy.ops  # isort: skip


class Network(torch.nn.Module):
    """A layer of torch and three of ComfyUI's, made in inference mode and moved outside of it, as on a GPU host."""

    def __init__(self) -> None:
        super().__init__()
        with torch.inference_mode():
            layers = [comfy.ops.disable_weight_init.Linear(8, 8) for _ in range(3)]
            self.diffusion_model = torch.nn.Sequential(torch.nn.Linear(8, 8), *layers)
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape))
        for weight in self.parameters():
            weight.data = weight.data.clone()
        self.model_config = SimpleNamespace(unet_config={})


def factors(*layers: int) -> Any:
    """Return the factors of a LoRA for these layers."""
    lora: dict[str, torch.Tensor] = {}
    for layer in layers:
        lora |= {f"lora_unet_{layer}.{role}.weight": torch.randn(*shape) for role, shape in SHAPES.items()}
    return refinement.LoRAFactors(lora, torch.device("cpu"))


def functions(network: Network) -> list[tuple[int, bool]]:
    """Return for every layer of ComfyUI how many functions it has, and whether the list is its own."""
    layers = [layer for layer in network.diffusion_model if hasattr(layer, "weight_function")]
    return [(len(layer.weight_function), "weight_function" in vars(layer)) for layer in layers]


def train(network: Network, trained: Any) -> str:
    """Compute gradients once and return the error, or how many factors have one."""
    try:
        with training.trainable_lora(network, trained):
            network.diffusion_model[1:](torch.randn(3, 8)).square().sum().backward()
        training.check_gradients(trained)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return f"{sum(bool(factor.grad.any()) for factor in trained.parameters.values())} gradients"


def timesteps_of(*bases: str) -> str:
    """Return the error about a MODEL with this sampling of ComfyUI's, or nothing."""
    made = type("ModelSampling", tuple(getattr(comfy.model_sampling, base) for base in bases), {})()
    try:
        training.check_timesteps(SimpleNamespace(get_model_object=lambda _: made))
    except ValueError as error:
        return str(error)
    return ""


SHAPES = {"lora_up": (8, 2), "lora_down": (2, 8)}
asyncio.run(load_pack().comfy_entrypoint())
training, refinement = module("nodes.refine_training"), module("difflora_core.refinement")

plain, earlier = Network(), Network()
earlier.diffusion_model[3].weight_function = [torch.neg]  # of the host or of another pack
unused = factors(1, 3)
unused.parameters["lora_unet_3.lora_up.weight"].requires_grad_(False)
found = {
    "moved": (train(plain, factors(1, 3)), functions(plain)),
    "functions of others": (train(earlier, factors(1, 3)), functions(earlier)),
    "layer of torch": (train(plain, factors(0, 3)), functions(plain)),
    "no gradient": train(plain, unused),
    "discrete": timesteps_of("ModelSamplingDiscrete", "V_PREDICTION"),
    "continuous": timesteps_of("ModelSamplingContinuousEDM", "EDM"),
    "gradients of the network": sum(weight.grad is not None for weight in plain.parameters()),
}
print(json.dumps(found))  # noqa: T201
