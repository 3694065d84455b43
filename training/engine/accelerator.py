"""Accelerate as the trainers use it: device, precision, compiler, processes, trackers."""

import warnings
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from .config import TrainConfig

COMPILER = "inductor"
"""Backend of torch.compile."""


def open_accelerator(config: TrainConfig, folder: Path | None = None, name: str = "") -> Accelerator:
    """Make an accelerator as configured; end it with `close_trackers`.

    It finds out whether `accelerate launch`, torchrun or `in_processes` started this process. Precision and device are
    the configuration's, whatever the launcher's defaults are.

    Args:
        config: Of the run.
        folder: Where trackers write, for TensorBoard folder/name. None starts none, whatever the configuration says.
        name: Of the run.

    Raises:
        ValueError: The launcher asks for FSDP, or a tracker is unknown or not installed.
    """
    # Accelerate keeps one state per process and refuses a second run with another precision or device
    AcceleratorState._reset_state(reset_partial_state=True)
    parallel = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # no module that several processes train changes its buffers
        find_unused_parameters=config.unused_parameters,
    )
    trackers = list(config.log_with) if folder else []
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        dynamo_backend=COMPILER if config.compile else "no",
        log_with=trackers or None,
        project_dir=folder if trackers else None,
        kwargs_handlers=[parallel],
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "the launcher asks for FSDP, but here the configuration says how processes share: launch without "
            "--use_fsdp, and set `shard: true` in `loop`."
        )
    # Accelerate leaves out what is not installed without a word
    if missing := sorted(set(trackers) - {"all", *map(str, accelerator.log_with)}):
        raise ValueError(
            f"log_with names {', '.join(missing)}, which is not installed: install it, or take it out of `log_with`"
        )
    if trackers:
        accelerator.init_trackers(name)
    return accelerator


def close_trackers(accelerator: Accelerator) -> None:
    """End what `open_accelerator` started. Accelerate's own `end_training` would end the process group, too."""
    for tracker in accelerator.trackers:
        tracker.finish()


def wrap(accelerator: Accelerator, module: nn.Module, sharded: bool = False) -> nn.Module:
    """Wrap a module with precision, compiler and processes as configured.

    Args:
        accelerator: Of the run.
        module: What is trained.
        sharded: Whether the module shares its gradients by itself.
    """
    with warnings.catch_warnings():
        # torch 2.15 has a new name for `broadcast_buffers`, which Accelerate can't pass on yet
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare_model(module, evaluation_mode=sharded)


def unwrap(accelerator: Accelerator, module: nn.Module) -> None:
    """Give the module back as it came: bf16 changes its own forward pass."""
    accelerator.unwrap_model(module, keep_fp32_wrapper=False, keep_torch_compile=False)
