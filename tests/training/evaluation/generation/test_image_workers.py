"""Images made by two processes, each with one core."""

import os
import threading
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from difflora_core.images import read_image
from miniature.comfyui.host import find_tokenizer
from miniature.personal.evaluation import prepare_evaluation
from miniature.personal.held_out_teachers import HeldOutTeachers
from tests.training.evaluation.prepared_settings import settings_in
from training.evaluation.generation.image_generation import ImageGeneration
from training.evaluation.generation.image_workers import WorkerDevice, generate_on, use_device, worker_devices
from training.evaluation.method_settings import MethodSettings
from training.evaluation.settings import EvaluationSettings

DEVICES = [WorkerDevice("cpu", 1)] * 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    """Two people × one prompt × two methods; nothing can be done with the second person's LoRA."""
    folder = tmp_path_factory.mktemp("workers")
    prepare_evaluation(folder, find_tokenizer(), HeldOutTeachers.load().people[:2])
    (folder / "prompts.yaml").write_text("view: ['a portrait of a {person}, blue shirt, white background']\n")
    sorted((folder / "teachers").iterdir())[1].write_bytes(b"")
    methods = {"no LoRA": MethodSettings("none"), "teacher": MethodSettings("lora", folder / "teachers")}
    return settings_in(folder, methods=methods, compared_with="teacher", steps=2)


def test_two_processes_make_what_one_makes(settings: EvaluationSettings, tmp_path: Path) -> None:
    alone, shared = (replace(settings, output=tmp_path / name) for name in ("alone", "shared"))
    ImageGeneration(alone, "cpu").run()
    planned = ImageGeneration(shared, "cpu")
    generate_on(DEVICES, planned, keep=False)
    names = [path.relative_to(alone.output) for path in sorted(alone.output.rglob("*.png"))]
    assert len(names) == 3
    for name in names:
        one, two = (np.array(read_image(folder.output / name)).astype(int) for folder in (alone, shared))
        assert abs(one - two).max() <= 1, "the number of threads may round otherwise"
    failures = [plan.failure(person.name) for plan in planned.plans for person in planned.people]
    assert failures[:3] == [None] * 3
    assert "is empty" in (failures[3] or "")
    record = planned.plans[1].images.record(planned.people[0].name)
    assert record.facts["device"] == "CPU, 1 thread in each of 2 processes"


def test_a_process_that_is_killed_ends_the_command_with_advice(settings: EvaluationSettings, tmp_path: Path) -> None:
    def kill_one() -> None:
        while not list(tmp_path.rglob("*.json")):
            time.sleep(0.01)
        active_children()[0].kill()

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(RuntimeError, match=r"a process that makes images was ended.*fewer --workers"):
        generate_on(DEVICES, ImageGeneration(replace(settings, output=tmp_path), "cpu"), keep=False)
    for process in active_children():
        process.join(30)
    assert active_children() == []


def test_a_process_computes_with_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str | int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    use_device(WorkerDevice("cuda:1", 4))
    use_device(WorkerDevice("cpu", 2))
    assert used == [4, "cuda:1", 2]


def test_devices_by_what_the_command_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert worker_devices(None, None) == worker_devices("cpu", None) == worker_devices("cpu", 1) == []
    assert worker_devices(None, 4) == [WorkerDevice("cpu", 2)] * 4
    with pytest.raises(ValueError, match=r"--workers 9: found 8 CPU cores, expected 1 to 8"):
        worker_devices("cpu", 9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_devices(None, None) == [WorkerDevice("cuda:0", 4), WorkerDevice("cuda:1", 4)]
    assert worker_devices("cuda:1", None) == []
    with pytest.raises(ValueError, match=r"--workers 3: found 2 GPUs, expected 1 to 2"):
        worker_devices(None, 3)
    with pytest.raises(ValueError, match=r"--workers 2 with --device cuda:1: expected --device cuda"):
        worker_devices("cuda:1", 2)
