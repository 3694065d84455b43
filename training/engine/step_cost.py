"""What a training step takes, before anything is trained: parameters, memory by component, measured speed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from .loop import LossFunction, Run, TrainConfig, generator_of, open_accelerator, unwrap, wrap

MEASURED_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Of one process. memory: bytes by component. seconds: of one optimizer step. rows: of a step's batch in all
    processes. peak: bytes that the device really held at most; CUDA tells, others don't.
    """

    parameters: int
    trained: int
    memory: Mapping[str, int]
    seconds: float
    rows: int
    device: str
    peak: int | None

    def __str__(self) -> str:
        """A few lines to print."""
        parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in self.memory.items())
        lines = [
            f"parameters   {self.parameters:,}, of which {self.trained:,} are trained",
            f"memory       {in_bytes(sum(self.memory.values()))}: {parts}",
            f"speed        {1 / self.seconds:.3g} steps/s, {self.rows / self.seconds:.3g} samples/s, measured on "
            f"{self.device}",
        ]
        if self.peak is not None:
            lines.insert(2, f"             {in_bytes(self.peak)} at most, measured")
        return "\n".join(lines)


def measure(
    module: nn.Module,
    loss: LossFunction,
    loop: TrainConfig,
    rows: int,
    batch: Mapping[str, int] | None = None,
    frozen: Mapping[str, nn.Module] | None = None,
) -> Cost:
    """Train `module` for a few steps as `train` would, writing nothing, and count.

    rows: samples of one part of a batch. batch: bytes by name of what the loss function holds beside the module and
    what is kept for the backward pass, which is counted here. frozen: networks by name that the loss goes through.
    """
    frozen = frozen or {}
    activations = kept_for_backward(module, loss, loop, list(frozen.values()))
    with TemporaryDirectory(prefix="dry-run-") as folder:
        accelerator = open_accelerator(replace(loop, log_with=()), Path(folder), "dry-run")
        run = Run(module, loss, loop, Path(folder), "dry-run", accelerator)
        prepared, optimizer = run.prepare()
        times = []
        for step in range(MEASURED_STEPS + 1):
            start = time.perf_counter()
            value, _ = run.step(prepared, optimizer, step)
            float(value)  # waits for the device
            times.append(time.perf_counter() - start)
        unwrap(accelerator, prepared)
        accelerator.free_memory()
    cuda = accelerator.device.type == "cuda"
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    processes = accelerator.num_processes
    share = processes if run.sharded else 1
    copies = 2 if processes > 1 and not run.sharded else 1  # DDP's buckets are a second copy of the gradients
    memory = {
        "weights": _bytes(parameters) + (_bytes(parameters) // share if run.sharded else 0),
        "statistics": _bytes(list(module.buffers())),
        "gradients": copies * _bytes(trained) // share,
        "AdamW's moments": 2 * _bytes(trained) // share,
        "EMA": _bytes(parameters) // share,
        **{name: _bytes([*network.parameters(), *network.buffers()]) for name, network in frozen.items()},
        **(batch or {}),
        "activations": activations,
    }
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in trained),
        memory,
        median(times[1:]),
        rows * loop.accumulate * accelerator.num_processes,
        torch.cuda.get_device_name() if cuda else str(accelerator.device),
        torch.cuda.max_memory_allocated() if cuda else None,
    )


def kept_for_backward(
    module: nn.Module, loss: LossFunction, loop: TrainConfig, frozen: Sequence[nn.Module] = ()
) -> int:
    """Bytes that one forward pass keeps for the backward pass, apart from parameters and buffers, also of `frozen`.

    Under bf16 they include the weights as bfloat16, which don't grow with the batch. torch.compile, which keeps less,
    is left out.
    """
    accelerator = open_accelerator(replace(loop, log_with=(), compile=False), Path(), "dry-run")
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
        value, _ = loss(wrapped, 0, generator_of(loop.seed, 0, 0))
    value.backward()  # DDP wants every forward pass to have one
    module.zero_grad(set_to_none=True)
    unwrap(accelerator, wrapped)
    accelerator.free_memory()
    return sum(kept.values())


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def in_bytes(count: float) -> str:
    """A number of bytes, readable."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
