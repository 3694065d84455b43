"""One-shot regression is trained anew for another LAE, and not resumed with other latents."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import regression_baselines
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.config import CONFIGURATIONS
from difflora_core.files import write_tensors
from miniature.base_model.config import lora_layout
from training.store.lora_store import LoRAStore


def test_a_run_belongs_to_an_autoencoder_and_to_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, runs = lora_layout(), []
    store = LoRAStore(tmp_path / "teachers", layout)
    for split, people in (("train", [0, 1]), ("validation", [2, 3])):
        store.add(split, people, 0.01 * torch.randn(2, layout.numel, generator=torch.Generator().manual_seed(0)))
        embeddings = torch.ones(2, 1, 4)
        tensors = {"face": embeddings, "image": embeddings.clone(), "person": torch.tensor(people)}
        (tmp_path / "conditions").mkdir(exist_ok=True)
        write_tensors(tmp_path / "conditions" / f"{split}.safetensors", tensors)

    def train_denoiser(*arguments: Any, identity: dict[str, Any]) -> tuple[None, None]:
        runs.append((arguments[-1], identity))
        return None, None

    monkeypatch.setattr(regression_baselines, "BUILD", tmp_path)
    monkeypatch.setattr(regression_baselines, "train_denoiser", train_denoiser)
    lae = LAE(layout, LAEConfig(kind="linear", tokens=2, width=1))
    lae.fit(store.read("train")[0])
    config = SimpleNamespace(dit=CONFIGURATIONS["miniature"], mif=None)
    model: Any = SimpleNamespace(lae=lae, encode=lae.encode, config=config)
    for change in (0.0, 0.0, 0.5):
        lae.latent_mean += change
        regression_baselines.trained_regression(model)
    (folder, identity), again, (other_folder, other_identity) = runs
    assert again == (folder, identity)
    assert folder != other_folder
    assert identity["latents"] != other_identity["latents"]
    assert identity["objective"] == "regression"
