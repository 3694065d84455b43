"""Checkpoints in folders, as the Hugging Face Hub has them; a folder needs no network."""

import json
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from difflora_core.model import WEIGHTS, DiffLoRA


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Make every attempt to connect an error."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a network call: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("offline", [False, True])
def test_a_folder_is_saved_and_read_without_the_network(tmp_path, model, monkeypatch, no_network, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    model.save_pretrained(tmp_path / "person-maker")
    assert {path.name for path in (tmp_path / "person-maker").iterdir()} == {WEIGHTS, "config.json", "README.md"}
    loaded = DiffLoRA.from_pretrained(tmp_path / "person-maker")
    assert (loaded.config, loaded.layout) == (model.config, model.layout)
    assert torch.equal(loaded.lae.mean, model.lae.mean)
    assert (
        json.loads((tmp_path / "person-maker" / "config.json").read_text(encoding="utf-8"))["encoders"]["face"] == "a"
    )


def test_options_are_those_of_load(tmp_path, model, no_network):
    model.save_pretrained(tmp_path)
    assert DiffLoRA.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_folder_with_the_checkpoint_alone_is_enough(tmp_path, model, no_network):
    model.save(tmp_path / WEIGHTS)
    assert DiffLoRA.from_pretrained(str(tmp_path)).config == model.config


def test_a_folder_without_a_checkpoint_is_named(tmp_path, no_network):
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        DiffLoRA.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["none/at/all", "models/difflora"])
def test_a_missing_folder_is_named(tmp_path, monkeypatch, no_network, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=f"there is no folder {place}, expected one that holds {WEIGHTS}, or owner/name of a"
    ):
        DiffLoRA.from_pretrained(Path(place), local_files_only=True)


def test_a_repository_is_downloaded_with_its_options(tmp_path, model, monkeypatch):
    model.save_pretrained(tmp_path)
    downloads = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        downloads.append((repo_id, filename, options["revision"]))
        return str(tmp_path / WEIGHTS)

    monkeypatch.setattr("difflora_core.model.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(tmp_path / "config.json"))
    loaded = DiffLoRA.from_pretrained("someone/difflora-sdxl", revision="v1")
    assert loaded.config == model.config
    assert downloads == [("someone/difflora-sdxl", WEIGHTS, "v1")]


def test_a_push_uploads_the_folder(model, monkeypatch):
    uploads = []

    class Api:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repository", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> None:
            uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model.push_to_hub("someone/difflora-sdxl")
    assert uploads == [("someone/difflora-sdxl", {WEIGHTS, "config.json", "README.md"})]
