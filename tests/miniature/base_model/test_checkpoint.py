"""The single-file checkpoint computes what was trained."""

import pytest
import torch

from miniature.base_model.checkpoint import checkpoint_path, load_checkpoint
from miniature.base_model.config import LATENT_SHAPE
from miniature.base_model.model import TinySDXL, Tokenizer
from miniature.base_model.single_file import save_single_file
from miniature.base_model.vae import TinyVAE, VAEConfig, export_taesd
from miniature.comfyui.host import find_tokenizer
from miniature.world.scenes import Scene, caption

CAPTIONS = ["", caption(Scene()), caption(Scene(expression="laughing", hat="wearing a straw hat"))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(find_tokenizer())


def test_checkpoint_computes_what_was_trained(tokenizer, tmp_path):
    torch.manual_seed(0)
    vae, base = TinyVAE(VAEConfig()), TinySDXL().eval()
    path, state = checkpoint_path(tmp_path), export_taesd(vae)
    path.parent.mkdir()
    save_single_file(path, base.unet, base.text_l, base.text_g, state, torch.float32)
    read, read_vae = load_checkpoint(tmp_path)
    noisy, timesteps = torch.randn(3, *LATENT_SHAPE), torch.tensor([10, 500, 999])
    with torch.no_grad():
        expected, found = (model.predict(noisy, timesteps, model.encode(tokenizer(CAPTIONS))) for model in (base, read))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(read_vae.decode(noisy), vae.decode(noisy), rtol=1e-4, atol=1e-5)


def test_missing_checkpoint_names_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m miniature build base"):
        load_checkpoint(tmp_path)
