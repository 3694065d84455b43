"""A stage on many workers: Ray tasks with retries, the same manifests.

Workers are actors that load their models once. One that dies is replaced, and its item is processed again; an item
whose record is written is never processed again. On one machine without `--ray` none of this is needed.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .config import DatasetConfig
from .manifest import Record
from .stage import Stage, attempt, collect_records, unsettled_items

RETRIES = 3
"""How often an item is tried again after its worker died; then it is recorded as failed."""


def connect(address: str | None, workers: int) -> Any:
    """Connect to a cluster and return the module `ray`.

    Args:
        address: Of the cluster; "auto" finds it, None starts one on this machine.
        workers: CPUs of the one on this machine.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{error}. Several workers need Ray: python -m pip install ray (extra `cluster`)") from error
    if not ray.is_initialized():
        # Every machine needs this code and the workspace at the same paths, for instance on a shared disk
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        local = {} if address else {"include_dashboard": False, "num_cpus": workers}
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}}, **local)
    return ray


def run_on_cluster(stage: Stage, config: DatasetConfig, workers: int, address: str | None = None) -> None:
    """Process a stage's unsettled items on several workers."""
    ray = connect(address, workers)
    left = unsettled_items(stage, config)
    if left:
        pool = WorkerPool(ray, stage, config, min(workers, len(left)))
        try:
            collect_records(stage, config, left, pool.records(left))
        finally:
            pool.close()
    stage.finish(config)


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
        resources = {"num_gpus": 1} if self.stage.gpu and self._has_gpus() else {"num_cpus": 1}
        return self.ray.remote(ClusterWorker).options(**resources, max_restarts=0).remote(self.stage, self.config)

    def _replace(self, actor: Any) -> Any:
        self.actors.remove(actor)
        self.actors.append(self._start_worker())
        return self.actors[-1]

    def _has_gpus(self) -> bool:
        return self.ray.cluster_resources().get("GPU", 0) > 0


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
