"""Loss functions in two parts, of which a worker thread does the first, drawing, while the present step runs.

A batch is a function of (seed, step, number of the micro-batch), so that it is the same whenever and by whichever
thread it is drawn. On CUDA batches come in pinned memory, from which `tensor.to(device, non_blocking=True)` does not
let the host wait.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

AHEAD = 2
"""Batches that are drawn or being drawn while one is used."""
Key = TypeVar("Key")
Batch = TypeVar("Batch", bound=NamedTuple)
Metrics = Mapping[str, float | Tensor]
LossFunction = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, Metrics]]
"""(module, step, generator of a micro-batch) → its mean loss, and metrics to log."""


class Objective(ABC, Generic[Batch]):
    """A `LossFunction` in two parts: batches are drawn by a worker thread, ahead of the steps that use them."""

    @abstractmethod
    def draw(self, step: int, generator: torch.Generator) -> Batch:
        """Draw a micro-batch: a named tuple of tensors on the CPU and of other things.

        It may use nothing that a step changes.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the mean loss of a micro-batch, which it moves to the module's device, and metrics to log."""

    def __call__(self, module: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Return the loss of a micro-batch that is drawn now. See `LossFunction`."""
        return self.loss(module, self.draw(step, generator))


class StepGenerator(NamedTuple):
    """What a loss function draws a micro-batch from."""

    step: int
    generator: torch.Generator


class LossAsObjective(Objective[StepGenerator]):
    """A loss function that draws what it needs by itself, for example because that depends on the module."""

    def __init__(self, loss_function: LossFunction) -> None:
        self.loss_function = loss_function

    def draw(self, step: int, generator: torch.Generator) -> StepGenerator:
        """Return the arguments of the loss function."""
        return StepGenerator(step, generator)

    def loss(self, module: nn.Module, batch: StepGenerator) -> tuple[Tensor, Metrics]:
        """Call the loss function."""
        return self.loss_function(module, *batch)


class BatchesAhead(Generic[Key, Batch]):
    """Iterate over the batches of keys, in order, inside a `with` statement, at whose end the thread ends.

    An error in drawing is raised where its batch is asked for, with its own traceback.
    """

    def __init__(self, draw: Callable[[Key], Batch], keys: Iterable[Key], device: torch.device) -> None:
        """Draw nothing yet.

        Args:
            draw: Key → named tuple of tensors on the CPU, and of other things.
            keys: Of all batches that will be asked for.
            device: Where the batches will be used.
        """
        self._draw, self._keys, self._pinned = draw, iter(keys), device.type == "cuda"
        # A new thread would use the first GPU, whichever is this process's
        initializer = (lambda: torch.cuda.set_device(device)) if self._pinned else None
        self._thread = ThreadPoolExecutor(1, "batches-ahead", initializer)
        self._batches: deque[Future[Batch]] = deque()

    def __enter__(self) -> Self:
        self._submit(AHEAD)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._batches.clear()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self._submit(1)
        if not self._batches:
            raise StopIteration
        return self._batches.popleft().result()

    def _submit(self, count: int) -> None:
        self._batches.extend(self._thread.submit(self._make, key) for key in islice(self._keys, count))

    def _make(self, key: Key) -> Batch:
        batch = self._draw(key)
        if not self._pinned:
            return batch
        return batch._make(part.pin_memory() if isinstance(part, Tensor) else part for part in batch)
