"""What a run is resumed from: parameters, their EMA and Adam's moments, in one safetensors file.

Accelerate's own state is several files, some of them pickled, and holds generators. This one needs none of that,
because every micro-batch is a function of (seed, step, its number). On disk all tensors are whole, however many
processes share them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from difflora_core.files import FULL, read_tensors, write_tensors

from .sharding import full_tensor, local_share, own_share

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter; empty until its first gradient


class TrainState:
    """Parameters of a module by name, their EMA on the same device, and the optimizer that moves them."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.parameters = dict(module.named_parameters())
        self.optimizer = optimizer
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """Move the EMA toward the parameters: ema ← decay · ema + (1 − decay) · parameter."""
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    @torch.no_grad()
    def count_not_finite(self) -> Tensor:
        """Count the parameters that are NaN or infinite somewhere, in this process's share of them."""
        shares = [own_share(parameter) for parameter in self.parameters.values()]
        return torch.stack([share.isfinite().all().logical_not().float() for share in shares]).sum()

    @torch.no_grad()
    def load_ema(self, module: nn.Module) -> None:
        """Load the EMA into a module: this one, or the full module that this one is a sharded copy of."""
        for name, parameter in module.named_parameters():
            parameter.copy_(full_tensor(self.ema[name]))

    def save(self, path: Path, step: int, write: bool = True) -> None:
        """Write the state after some steps.

        Args:
            path: Of the file.
            step: Steps that are done.
            write: False in processes that only contribute their shares.

        Raises:
            OSError: With its errno; the last state on disk is still whole.
        """
        tensors = {}
        for name, tensor in self._tensors():
            gathered = full_tensor(tensor)
            if write:
                tensors[name] = gathered.cpu().contiguous()
        if not write:
            return
        try:
            write_tensors(path, tensors, {"step": str(step)})
        except OSError as error:
            full = error.errno in FULL
            what = "the disk is full" if full else str(error.strerror)
            kept = f"the last state in {path.name} is whole" if path.exists() else "there is no earlier one"
            hint = "free some space and run" if full else "fix that and run"
            message = f"{what}, so the state of step {step} could not be written; {kept}: {hint} the same command again"
            raise OSError(error.errno, message, str(path)) from error

    @torch.no_grad()
    def load(self, path: Path) -> int:
        """Load a state that `save` wrote; return its step.

        Raises:
            ValueError: The file is no such state, or one of another network; the first tensor that differs is named.
        """
        tensors, metadata = read_tensors(path)
        self._check(path, tensors, metadata)
        step = int(metadata["step"])
        for name, parameter in self.parameters.items():
            parameter.copy_(local_share(tensors[f"model.{name}"], parameter))
            self.ema[name].copy_(local_share(tensors[f"ema.{name}"], parameter))
            if f"exp_avg.{name}" in tensors:
                # A parameter counts its own steps: with modality dropout some have had fewer gradients
                moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
                own_step = moments.pop("step", torch.tensor(float(step)))
                state = {key: local_share(value, parameter) for key, value in moments.items()}
                self.optimizer.state[parameter] = {"step": own_step.to(parameter.device), **state}
        return step

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.parameters.items():
            yield f"model.{name}", parameter.detach()
            yield f"ema.{name}", self.ema[name]
            for moment in MOMENTS:
                if moment in self.optimizer.state[parameter]:
                    yield f"{moment}.{name}", self.optimizer.state[parameter][moment]

    def _check(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        if "step" not in metadata:
            raise ValueError(f"{path} is no training state: its metadata have no step. Choose another folder.")
        found = {name.removeprefix("model."): tensors[name] for name in tensors if name.startswith("model.")}
        check_same_tensors(path, found, self.parameters)


def check_same_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a file holds the tensors of a network.

    Raises:
        ValueError: A tensor is missing, of another shape, or too many; the first one is named.
    """
    advice = "Choose another output folder, or delete the file to start again."
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{path} is the state of another network: it has no tensor {name}. {advice}")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{path} is the state of another network: {name} has shape {tuple(found[name].shape)}, expected "
                f"{tuple(tensor.shape)}. {advice}"
            )
    if extra := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{path} is the state of another network: it also has a tensor {extra[0]}. {advice}")
