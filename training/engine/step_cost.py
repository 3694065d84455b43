"""What a training step costs, before anything is trained: parameters, memory by component, measured speed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difflora_core.seeds import generator_for

from .accelerator import open_accelerator, unwrap, wrap
from .batches_ahead import LossFunction
from .config import TrainConfig
from .format import format_bytes
from .loop import TrainingLoop

MEASURED_STEPS = 3


@dataclass(frozen=True)
class StepCost:
    """The cost of one process."""

    parameters: int
    """Of the module."""
    trained: int
    """Parameters with a gradient."""
    memory: Mapping[str, int]
    """Bytes by component."""
    seconds: float
    """Of one optimizer step."""
    samples: int
    """In the batch of a step, over all processes."""
    device: str
    """Where it was measured."""
    peak: int | None
    """Most bytes that the device held; CUDA tells, others don't."""

    def __str__(self) -> str:
        """Format as a few lines to print."""
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.memory.items())
        lines = [
            f"parameters   {self.parameters:,}, of which {self.trained:,} are trained",
            f"memory       {format_bytes(sum(self.memory.values()))}: {parts}",
            f"speed        {1 / self.seconds:.3g} steps/s, {self.samples / self.seconds:.3g} samples/s, measured on "
            f"{self.device}",
        ]
        if self.peak is not None:
            lines.insert(2, f"             {format_bytes(self.peak)} at most, measured")
        return "\n".join(lines)


def measure_step(
    module: nn.Module,
    loss_function: LossFunction,
    config: TrainConfig,
    samples: int,
    batch: Mapping[str, int] | None = None,
    frozen: Mapping[str, nn.Module] | None = None,
) -> StepCost:
    """Train a module for a few steps as `train` would, writing nothing, and measure.

    Args:
        module: What is trained.
        loss_function: Its loss.
        config: Of the run.
        samples: In a micro-batch.
        batch: Bytes by name of what the loss function holds beside the module and beside what is kept for the backward
            pass, which is measured here.
        frozen: Networks by name that the loss goes through.
    """
    frozen = frozen or {}
    activations = measure_activations(module, loss_function, config, list(frozen.values()))
    with TemporaryDirectory(prefix="dry-run-") as folder:
        accelerator = open_accelerator(config)
        loop = TrainingLoop(module, loss_function, config, Path(folder), "dry-run", accelerator)
        seconds = _seconds_per_step(loop)
        accelerator.free_memory()
    parameters = list(module.parameters())
    cuda = accelerator.device.type == "cuda"
    return StepCost(
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        {
            **_training_memory(module, accelerator, loop.sharded),
            **{name: _bytes([*network.parameters(), *network.buffers()]) for name, network in frozen.items()},
            **(batch or {}),
            "activations": activations,
        },
        seconds,
        samples * config.accumulate * accelerator.num_processes,
        torch.cuda.get_device_name() if cuda else str(accelerator.device),
        torch.cuda.max_memory_allocated() if cuda else None,
    )


def measure_activations(
    module: nn.Module, loss_function: LossFunction, config: TrainConfig, frozen: Sequence[nn.Module] = ()
) -> int:
    """Measure the bytes that one forward pass keeps for the backward pass, without parameters and buffers.

    Under bf16 they include the weights as bfloat16, which don't grow with the batch. torch.compile, which keeps less,
    is left out.

    Args:
        module: What is trained.
        loss_function: Its loss.
        config: Of the run.
        frozen: Networks that the loss goes through.
    """
    accelerator = open_accelerator(replace(config, compile=False))
    wrapped = wrap(accelerator, module.to(accelerator.device))
    for network in frozen:
        network.to(accelerator.device)
    known = [tensor for network in (module, *frozen) for tensor in (*network.parameters(), *network.buffers())]
    own = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value, _ = loss_function(wrapped, 0, generator_for(config.seed, 0, 0))
    value.backward()  # DDP wants every forward pass to have one
    module.zero_grad(set_to_none=True)
    unwrap(accelerator, wrapped)
    accelerator.free_memory()
    return sum(kept.values())


def _seconds_per_step(loop: TrainingLoop) -> float:
    """Median of a few steps after one that warms up."""
    prepared, optimizer = loop.prepare()
    times, steps = [], range(MEASURED_STEPS + 1)
    with loop.batches(steps) as batches:
        for step in steps:
            start = time.perf_counter()
            value, _ = loop.step(prepared, optimizer, step, batches)
            float(value)  # waits for the device
            times.append(time.perf_counter() - start)
    unwrap(loop.accelerator, prepared)
    return median(times[1:])


def _training_memory(module: nn.Module, accelerator: Accelerator, sharded: bool) -> dict[str, int]:
    """Bytes by component of what training a module holds beside activations."""
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    processes = accelerator.num_processes
    share = processes if sharded else 1
    copies = 2 if processes > 1 and not sharded else 1  # DDP's buckets are a second copy of the gradients
    return {
        "weights": _bytes(parameters) + (_bytes(parameters) // share if sharded else 0),
        "statistics": _bytes(list(module.buffers())),
        "gradients": copies * _bytes(trained) // share,
        "AdamW's moments": 2 * _bytes(trained) // share,
        "EMA": _bytes(parameters) // share,
    }


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
