"""A learned token's file means the same in ComfyUI and in diffusers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from difflora_core.files import write_tensors
from miniature.base_model.checkpoint import checkpoint_path
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_host, find_tokenizer
from miniature.paths import WEIGHTS
from training.base_model.sdxl import SDXLBase

CHECKPOINT = checkpoint_path(WEIGHTS)


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_text_conditions(tmp_path: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    vectors = {
        "clip_l": torch.randn(count, 32, generator=generator),
        "clip_g": torch.randn(count, 64, generator=generator),
    }
    write_tensors(tmp_path / "embeddings" / "ann.safetensors", vectors)
    script, outputs = Path(__file__).with_name("embedding_in_host.py"), tmp_path / "outputs.safetensors"
    prompt = "a portrait of a embedding:ann, smiling"
    command = [sys.executable, script, find_host(), CHECKPOINT, tmp_path / "embeddings", outputs, prompt]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    base = SDXLBase.open(export_diffusers(WEIGHTS, tmp_path / "base", find_tokenizer()))
    with base.added_token("<ann>", vectors):
        expected = base.encode_text(["a portrait of a <ann>, smiling"])
    found = load_file(outputs)
    for name in ("context", "pooled"):
        assert torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-3), name
    plain = base.encode_text(["a portrait of a person, smiling"])["pooled"]
    assert not torch.allclose(found["pooled"], plain, atol=0.05)
