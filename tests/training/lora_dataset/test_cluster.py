"""Two workers on a local Ray cluster, one killed in the middle: every item is processed exactly once."""

import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from training.lora_dataset.cluster import RETRIES, _check_health, connect, run_on_cluster
from training.lora_dataset.config import DatasetConfig
from training.lora_dataset.fingerprints import Fingerprint
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import Stage, Worker

ray = pytest.importorskip("ray")
NAMES = [f"person_{number:02d}" for number in range(12)]


@dataclass
class Deadly(Stage):
    """A stage whose worker is killed by `kill -9` while it processes a certain person, so many times."""

    victim: str
    deaths: int
    name: str = "deadly"
    gpu: bool = False

    def items(self, config: DatasetConfig) -> Sequence[str]:
        return NAMES

    def fingerprints(self, config: DatasetConfig) -> Callable[[str], Fingerprint]:
        return lambda item: {}

    def worker(self, config: DatasetConfig, device: str) -> Worker:
        folder, deaths, victim = config.workspace, self.deaths, self.victim

        def process(item: str) -> Record:
            died = len(list(folder.glob("died_*")))
            if item == victim and died < deaths:
                (folder / f"died_{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
            with (folder / "done.txt").open("a", encoding="utf-8") as file:
                file.write(f"{item} {os.getpid()}\n")
            return Record(item)

        return process

    def finish(self, config: DatasetConfig) -> None:
        (config.workspace / "finished").touch()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


@pytest.fixture
def no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail where Ray itself is asked to connect, which it tries for minutes."""

    def fail(**_: object) -> None:
        pytest.fail("Ray is asked to connect")

    monkeypatch.setattr(ray, "init", fail)


@pytest.mark.usefixtures("no_attempt")
@pytest.mark.parametrize(
    ("address", "message"),
    [("nonsense:99", "there is no Ray cluster"), ("127.0.0.1:9", "there is no Ray cluster"), ("here", "HOST:PORT")],
)
def test_an_address_without_a_cluster_is_an_error(address: str, message: str) -> None:
    with pytest.raises(ConnectionError, match=f"--ray {address}: .*{message}"):
        connect(address, workers=1)


@pytest.mark.usefixtures("no_attempt")
def test_what_listens_and_is_no_cluster_is_an_error() -> None:
    """The check of its health, which waits without end, is ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="does not answer as Ray does"):
            connect(address, workers=1)


def test_the_address_of_a_cluster_is_found_healthy(cluster: None) -> None:
    connect(None, workers=2)
    assert _check_health(ray.get_runtime_context().gcs_address) is None


def lines(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "done.txt").read_text(encoding="utf-8").splitlines()]


def test_a_killed_worker_loses_nothing(cluster: None, tmp_path: Path) -> None:
    config = DatasetConfig(workspace=tmp_path, base=tmp_path)
    run_on_cluster(Deadly(NAMES[4], deaths=1), config, workers=2)
    assert Counter(item for item, _ in lines(tmp_path)) == Counter(NAMES)
    assert len({worker for _, worker in lines(tmp_path)}) >= 2
    assert (tmp_path / "died_0").exists()
    assert Manifest(config.stage("deadly")).done() == NAMES
    assert (tmp_path / "finished").exists()


def test_a_person_that_kills_every_worker_is_given_up(cluster: None, tmp_path: Path) -> None:
    config = DatasetConfig(workspace=tmp_path, base=tmp_path)
    run_on_cluster(Deadly(NAMES[0], deaths=99), config, workers=2)
    manifest = Manifest(config.stage("deadly"))
    assert manifest.done() == NAMES[1:]
    record = manifest.read(NAMES[0])
    assert record is not None
    assert record.status == "failed"
    assert f"died {RETRIES + 1} times" in record.reason


def test_more_workers_than_the_cluster_can_hold(cluster: None, tmp_path: Path, capsys: Any) -> None:
    """The third would wait for a CPU without end, and its person with it."""
    connect(None, workers=2)
    config = DatasetConfig(workspace=tmp_path, base=tmp_path)
    run_on_cluster(Deadly("nobody", deaths=0), config, workers=3)
    assert Counter(item for item, _ in lines(tmp_path)) == Counter(NAMES)
    assert "3 workers are asked for, but the cluster has 2 CPUs: 2 work" in capsys.readouterr().out
