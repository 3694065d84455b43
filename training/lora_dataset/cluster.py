"""A stage on many workers: Ray tasks with retries, the same manifests.

Workers are actors that load their models once. One that dies is replaced, and its item is processed again; an item
whose record is written is never processed again. With one worker none of this is needed.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .config import DatasetConfig
from .manifest import Record
from .stage import Stage, attempt, stopping_when_full
from .stage_run import begin_work, collect_records

CONNECT_SECONDS = 7.0
"""How long an address has to answer, and then how long a cluster there; a healthy one takes 1 s."""
RETRIES = 3
"""How often an item is tried again after its worker died; then it is recorded as failed."""


def connect(address: str | None, workers: int) -> Any:
    """Connect to a cluster and return the module `ray`.

    Args:
        address: Of the cluster; "auto" finds it, None starts one on this machine.
        workers: CPUs of the one on this machine.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: There is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{error}. Several workers need Ray: python -m pip install ray (extra `cluster`)") from error
    if not ray.is_initialized():
        if address not in (None, "auto", "local"):
            _check_answer(address)
        # Every machine needs this code and the workspace at the same paths, for instance on a shared disk
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        local = {} if address else {"include_dashboard": False, "num_cpus": workers}
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}}, **local)
    return ray


def _check_answer(address: str) -> None:
    """Check that a cluster answers at an address; Ray itself would try for minutes.

    Raises:
        ConnectionError: None does, or the address is of another form.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ConnectionError(
            f"--ray {address}: expected HOST:PORT, ray://HOST:PORT, or nothing for this machine's own"
        )
    outcome: list[OSError | None] = []

    def open_connection() -> None:
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            outcome.append(None)
        except (OSError, OverflowError, UnicodeError) as error:
            outcome.append(error if isinstance(error, OSError) else OSError(str(error)))

    thread = threading.Thread(target=open_connection, daemon=True)  # asking for the host's address knows no time limit
    thread.start()
    thread.join(CONNECT_SECONDS)
    reason = outcome[0] if outcome else f"no answer in {CONNECT_SECONDS:.0f} seconds"
    if reason is None and not address.startswith("ray://"):  # the port of Ray's client knows no such check
        reason = _check_health(address)
    if reason is not None:
        raise ConnectionError(
            f"--ray {address}: there is no Ray cluster ({reason}): check the address with `ray status` on its head node"
        )


def _check_health(address: str) -> str | None:
    """Why what listens at an address is no healthy cluster; None if it is one."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(command, timeout=CONNECT_SECONDS, capture_output=True, check=True)
    except subprocess.TimeoutExpired:
        return "something listens there, but does not answer as Ray does"
    except subprocess.CalledProcessError as error:
        return (error.stderr.decode(errors="replace").strip().splitlines() or ["it is not healthy"])[-1]
    return None


def run_on_cluster(
    stage: Stage, config: DatasetConfig, workers: int, address: str | None = None, keep: bool = False
) -> int:
    """Process on several workers what a stage has not done; arguments and result as of `run_stage`."""
    ray = connect(address, workers)
    left, failed = begin_work(stage, config, keep), 0
    if left:
        pool = WorkerPool(ray, stage, config, min(_limited(workers, ray, stage), len(left)))
        try:
            failed = collect_records(stage, config, left, pool.records(list(left)))
        finally:
            pool.close()
    with stopping_when_full():
        stage.finish(config)
    return failed


def _limited(workers: int, ray: Any, stage: Stage) -> int:
    """Return how many workers the cluster can hold; any other would wait without end, and its item with it."""
    kind = _resource(ray, stage)
    capacity = max(1, int(ray.cluster_resources().get(kind, 0)))
    if workers > capacity:
        tqdm.write(
            f"{stage.name}: {workers} workers are asked for, but the cluster has {capacity} {kind}s: {capacity} work"
        )
    return min(workers, capacity)


def _resource(ray: Any, stage: Stage) -> str:
    """Return what a worker has one of for itself, as Ray calls it."""
    return "GPU" if stage.gpu and ray.cluster_resources().get("GPU", 0) > 0 else "CPU"


class WorkerPool:
    """Workers, and the items that they process."""

    def __init__(self, ray: Any, stage: Stage, config: DatasetConfig, workers: int) -> None:
        self.ray, self.stage, self.config = ray, stage, config
        self.actors = [self._start_worker() for _ in range(workers)]

    def records(self, items: Sequence[str]) -> Iterator[Record]:
        """Yield each item's record in the order in which they are finished."""
        waiting = list(reversed(items))
        tries = dict.fromkeys(items, 0)
        idle = list(self.actors)
        busy: dict[Any, tuple[Any, str]] = {}
        while waiting or busy:
            while idle and waiting:
                actor, item = idle.pop(), waiting.pop()
                tries[item] += 1
                busy[actor.process.remote(item)] = (actor, item)
            (ready, *_), _ = self.ray.wait(list(busy), num_returns=1)
            actor, item = busy.pop(ready)
            try:
                yield self.ray.get(ready)
                idle.append(actor)
            except self.ray.exceptions.RayActorError as error:
                idle.append(self._replace(actor))
                if tries[item] <= RETRIES:
                    waiting.append(item)
                else:
                    yield Record(item, "failed", f"its worker died {tries[item]} times: {error}")

    def close(self) -> None:
        """Stop the workers."""
        for actor in self.actors:
            self.ray.kill(actor)

    def _start_worker(self) -> Any:
        resources = {f"num_{_resource(self.ray, self.stage).lower()}s": 1}
        return self.ray.remote(ClusterWorker).options(**resources, max_restarts=0).remote(self.stage, self.config)

    def _replace(self, actor: Any) -> Any:
        self.actors.remove(actor)
        self.actors.append(self._start_worker())
        return self.actors[-1]


class ClusterWorker:
    """One worker; it loads its models with the first item."""

    def __init__(self, stage: Stage, config: DatasetConfig) -> None:
        self.stage, self.config = stage, config
        self.worker: Any = None

    def process(self, item: str) -> Record:
        """Process one item and return its record."""
        import torch

        if self.worker is None:
            torch.set_num_threads(1)
            self.worker = self.stage.worker(self.config, "cuda" if torch.cuda.is_available() else "cpu")
        return attempt(self.worker, item)
