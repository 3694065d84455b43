"""The whole pipeline from folders of images to a store, by its command line, killed in the middle and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.paths import ROOT, WEIGHTS
from miniature.personal.example_dataset import draw_person_folders
from miniature.world.scenes import TEACHER_SCENES
from training.lora_dataset.manifest import Manifest
from training.lora_dataset.stage_registry import ORDER
from training.store.lora_store import LoRAStore

PEOPLE = (20, 21, 22, 23)
WITH_BROKEN_IMAGE = "person_00020"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, sdxl_folder: Path) -> Path:
    """A set-up with four people in groups of two; one of them has a broken image among six."""
    folder = tmp_path_factory.mktemp("pipeline")
    draw_person_folders(folder / "faces", PEOPLE, TEACHER_SCENES[:6])
    (folder / "faces" / WITH_BROKEN_IMAGE / "broken.png").write_bytes(b"this is not an image")
    settings = {
        "workspace": "work",
        "base": str(sdxl_folder),
        "faces": {"pack": "miniature", "root": str(WEIGHTS / "insightface")},
        "collect": {"source": "people", "path": str(folder / "faces"), "min_face": 24},
        "generate": {"enabled": False},
        "filter": {"min_face": 24, "min_sharpness": 0.0, "min_similarity": 0.0, "min_images": 3},
        "preprocess": {"size": 128},
        "dreambooth": {
            "feed_forward": True,
            "people": 2,
            "steps": 12,  # long enough that the second group is not done when the first one's record is noticed
            "warmup": 2,
            "images_per_person": 2,
            "dtype": "fp32",
            "gradient_checkpointing": False,
        },
        "pack": {"validation": 0.0, "test": 0.0, "people_per_shard": 3},
        "verify": {"people": 1, "images": 1, "steps": 4},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return path


def command(config: Path, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "training", "dataset", *arguments, "--config", str(config)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def assert_only_bars(stderr: str) -> None:
    """Stages show progress bars, and no library says anything between them."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", stderr) if line.strip()]
    assert lines
    assert not [line for line in lines if not re.match(rf"({'|'.join(ORDER)})(: comparing)?:\s+\d+%\|", line)]


@pytest.fixture(scope="module")
def done(config: Path) -> Path:
    """The workspace after a run that was killed by `kill -9` once the first group was trained, and a second run."""
    workspace = config.parent / "work"
    first = subprocess.Popen(
        command(config, "all"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not list((workspace / "dreambooth").glob("*.json")):
        assert first.poll() is None, "the run ended before anybody was trained"
        assert time.monotonic() < end
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (trained,) = (workspace / "dreambooth").glob("*.json")
    before = trained.stat().st_mtime_ns
    second = subprocess.run(
        command(config, "all"), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stderr[-3000:]
    assert_only_bars(second.stderr)
    assert trained.stat().st_mtime_ns == before, "the group that was done was trained again"
    return workspace


def test_everyone_is_in_the_store_once(done: Path) -> None:
    layout = LoRALayout.from_config(base_config.UNET, 4, feed_forward=True)
    loras, people = LoRAStore(done / "store", layout).read("train")
    assert len(people) == len(set(people)) == len(PEOPLE)
    assert loras.abs().sum(1).min() > 0
    assert not torch.allclose(loras[0], loras[1])


def test_the_broken_image_is_listed_and_the_person_kept(done: Path) -> None:
    (record,) = (r for r in Manifest(done / "collect").records() if r.item.startswith(WITH_BROKEN_IMAGE))
    assert record.status == "done"
    assert len(record.facts["images"]) == 6
    assert "broken.png" in json.dumps(record.facts["dropped"])


def test_teachers_are_verified(done: Path) -> None:
    assert (done / "verify" / "report" / "sheet.png").stat().st_size > 1000
    json.loads((done / "verify" / "report" / "report.json").read_text(encoding="utf-8"))


def test_status_counts(config: Path, done: Path) -> None:
    shown = subprocess.run(
        command(config, "status"), cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    ).stdout
    lines = {line.split()[0]: line for line in shown.splitlines() if line and not line.startswith(" ")}
    assert lines["collect"].split()[1:3] == ["4", "done"]
    assert lines["dreambooth"].split()[1:3] == ["2", "done"]


def test_a_second_run_makes_exactly_that_again_which_differs(config: Path, done: Path) -> None:
    """One caption is rewritten, and more people are verified: one group is trained again."""
    changed, groups = "person_00021", Manifest(done / "dreambooth")
    group = next(record.item for record in groups.records() if changed in record.facts["people"])
    (group_of_others,) = set(groups.done()) - {group}
    layout = LoRALayout.from_config(base_config.UNET, 4, feed_forward=True)
    before = {path: path.read_bytes() for path in done.glob("*/*.json")}
    loras = dict(zip(*LoRAStore(done / "store", layout).read("train")[::-1], strict=True))
    image = next((config.parent / "faces" / changed).glob("*.png"))
    image.with_suffix(".txt").write_text("a portrait of a person with a red hat", encoding="utf-8")
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["verify"]["people"] = 4
    config.write_text(json.dumps(settings), encoding="utf-8")
    for arguments in (["status"], ["collect", "--keep"]):
        shown = subprocess.run(
            command(config, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
        ).stdout
        assert "4 done  0 dropped  0 failed  1 stale: other images (1)" in shown
    assert {path: path.read_bytes() for path in done.glob("*/*.json")} == before
    subprocess.run(command(config, "all"), cwd=ROOT, env=environment(), capture_output=True, check=True)
    again = {path.relative_to(done).as_posix() for path in before if path.read_bytes() != before[path]}
    people = {f"{stage}/{changed}.json" for stage in ("collect", "generate", "filter", "preprocess")}
    assert people <= again
    assert f"dreambooth/{group}.json" in again
    assert f"dreambooth/{group_of_others}.json" not in again
    assert not {name for name in again - people if name.split("/")[0] not in ("dreambooth", "pack", "verify")}
    assert len(Manifest(done / "verify").done()) == 4
    after = dict(zip(*LoRAStore(done / "store", layout).read("train")[::-1], strict=True))
    assert [name for name in loras if not torch.equal(loras[name], after[name])] == [changed]


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    failed = subprocess.run(
        command(tmp_path / "none.yaml", "all"), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "there is no configuration file" in failed.stderr
