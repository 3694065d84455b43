"""A saved latent comes back as it was; anything else is an error that names the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.denoiser.latent_file import HEADER, TENSOR, load_latents, save_latents

MADE = {"seed": 3, "steps": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "person.safetensors"


def test_latents_come_back(path: Path) -> None:
    latents = torch.randn(2, 18, 16)
    save_latents(path, latents.half(), "miniature.safetensors", [MADE, {"seed": 4}], "abc")
    found = load_latents(path)
    assert torch.equal(found.latents, latents.half().float())
    assert (found.checkpoint, found.made_by) == ("miniature.safetensors", (MADE, {"seed": 4}))
    assert found.autoencoder == "abc"
    assert path.stat().st_size < 5000


@pytest.mark.parametrize(
    ("latents", "records", "message"),
    [
        (torch.full((1, 2, 3), float("nan")), 1, "NaN"),
        (torch.zeros(2, 3), 2, r"\(candidates, tokens, width\)"),
        (torch.zeros(2, 2, 3), 1, "records of 1"),
    ],
)
def test_what_could_not_be_read_is_not_written(path: Path, latents: torch.Tensor, records: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_latents(path, latents, "a.safetensors", [MADE] * records)
    assert not path.exists()


def header(**changes: object) -> dict[str, str]:
    return {HEADER: json.dumps({"format": 1, "checkpoint": "a", "made_by": [MADE]} | changes)}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"lora_up": torch.zeros(2, 2)}, {}, "holds no latent of a person"),
        ({TENSOR: torch.zeros(1, 2, 3), "more": torch.zeros(1)}, header(), "holds no latent of a person"),
        ({TENSOR: torch.zeros(1, 2, 3)}, header(format=9), "update DiffLoRA"),
        ({TENSOR: torch.zeros(1, 2, 3)}, header(checkpoint=None), "is damaged"),
        ({TENSOR: torch.zeros(1, 2, 3)}, header(autoencoder=3), "is damaged"),
        ({TENSOR: torch.zeros(1, 2, 3)}, header(made_by=[3]), "is damaged"),
        ({TENSOR: torch.zeros(1, 2, 3)}, header(made_by=[]), "records of 0"),
        ({TENSOR: torch.zeros(1, 2, 3, dtype=torch.int32)}, header(), "is damaged"),
        ({TENSOR: torch.full((1, 2, 3), float("inf"))}, header(), "person.safetensors hold NaN or infinite"),
        ({TENSOR: torch.zeros(2, 3)}, header(), r"person.safetensors are \(candidates"),
    ],
)
def test_other_files_are_refused(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], message: str
) -> None:
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=message):
        load_latents(path)
