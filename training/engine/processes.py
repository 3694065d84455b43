"""Several processes of one command that share their gradients, as `accelerate launch` would start them."""

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def in_processes(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run `function(rank, processes, *arguments)` in several processes that share gradients over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_enter, (processes, port, function, arguments), nprocs=processes)


def _enter(rank: int, processes: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # What `accelerate launch` would have set: Accelerate reads its rank from here
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    os.environ.update({name: str(number) for name, number in numbers.items()})
    torch.set_num_threads(1)
    end_with_parent()
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    try:
        function(rank, processes, *arguments)
    finally:
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Make this worker process end when the command that started it is gone, even if it was killed by SIGKILL.

    Without it, workers would go on training in the background and overwrite the files of the next run.
    """
    parent = torch.multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
