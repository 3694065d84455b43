"""The base model's parts before training: what is exported computes what was trained."""

from itertools import product

import pytest
import torch

from miniature.base_model.checkpoint import NAME, load_checkpoint
from miniature.base_model.model import TinySDXL, Tokenizer, expand_vocabulary, noise_scheduler, used_tokens
from miniature.base_model.single_file import save_single_file
from miniature.base_model.train_vae import CONFIG
from miniature.base_model.vae import TinyVAE, VAEConfig, export_taesd, import_taesd, reconstruction_loss
from miniature.comfyui.host import find_tokenizer
from miniature.world.scenes import Scene, caption

CAPTIONS = ["", caption(Scene()), caption(Scene(expression="laughing", hat="wearing a straw hat"))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(find_tokenizer())


@torch.no_grad()
def test_the_64_channel_export_computes_the_same():
    torch.manual_seed(0)
    small = TinyVAE(VAEConfig(widths=(4, 6, 8, 10)))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    full = TinyVAE(VAEConfig((64,) * 4, (1, 3, 3, 3), (1, 3, 3, 3)))
    full.load_state_dict(export_taesd(small))
    pictures = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(full.encode(pictures), small.encode(pictures), rtol=1e-4, atol=1e-5)
    latents = torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(full.decode(latents), small.decode(latents), rtol=1e-4, atol=1e-5)


def test_what_was_exported_is_read_back_as_it_was():
    small = TinyVAE(VAEConfig(widths=(4, 6, 8, 10)))
    read = import_taesd(export_taesd(small), TinyVAE(VAEConfig(widths=(4, 6, 8, 10))))
    assert all(torch.equal(read[name], tensor) for name, tensor in small.state_dict().items())


def test_checkpoint_computes_what_was_trained(tokenizer, tmp_path):
    torch.manual_seed(0)
    vae, base = TinyVAE(CONFIG), TinySDXL(None).eval()
    (tmp_path / "checkpoints").mkdir()
    state = export_taesd(vae)
    save_single_file(tmp_path / "checkpoints" / NAME, base.unet, base.text_l, base.text_g, state, torch.float32)
    read, read_vae = load_checkpoint(tmp_path)
    noisy, timesteps = torch.randn(3, 4, 16, 16), torch.tensor([10, 500, 999])
    with torch.no_grad():
        expected, found = (model.predict(noisy, timesteps, model.encode(tokenizer(CAPTIONS))) for model in (base, read))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(read_vae.decode(noisy), vae.decode(noisy), rtol=1e-4, atol=1e-5)


def test_missing_checkpoint_names_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m miniature build base"):
        load_checkpoint(tmp_path)


def test_export_has_taesds_names_and_shapes():
    state = export_taesd(TinyVAE(VAEConfig()))
    assert state["taesd_decoder.1.weight"].shape == (64, 4, 3, 3)
    assert state["taesd_encoder.14.weight"].shape == (4, 64, 3, 3)
    assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(2.45e6, rel=0.01)


def test_perfect_reconstruction_costs_only_the_latents_size():
    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig(widths=(16, 16, 16, 16)))
    vae.decode = lambda latents: pictures  # type: ignore[method-assign]
    pictures = torch.rand(2, 3, 16, 16)
    loss, mse = reconstruction_loss(vae, pictures, torch.ones(2, 1, 16, 16), torch.Generator().manual_seed(0))
    latents = vae.encode(pictures)
    unit = (latents.std((0, 2, 3)).log().square() + latents.mean((0, 2, 3)).square()).mean()
    assert mse == 0
    torch.testing.assert_close(loss, 0.01 * unit, rtol=1e-3, atol=1e-6)


def test_padding_is_that_of_both_sdxl_encoders(tokenizer):
    left, right = tokenizer([""])
    assert left[0].tolist() == [49406, 49407, *[49407] * 75]
    assert right[0].tolist() == [49406, 49407, *[0] * 75]


def test_every_caption_is_covered_by_the_used_tokens(tokenizer):
    used = set(used_tokens(tokenizer).tolist())
    from miniature.world.scenes import BACKGROUNDS, EXPRESSIONS, GAZES, HATS, SHIRTS

    for expression, gaze, hat in product(EXPRESSIONS, GAZES, HATS):
        for shirt, background in zip(SHIRTS, BACKGROUNDS, strict=False):
            text = caption(Scene(expression, gaze, hat=hat, shirt=shirt, background=background))
            ids = torch.cat(tokenizer([text])).unique().tolist()
            assert used.issuperset(ids), text


def test_full_vocabulary_computes_the_same(tokenizer):
    torch.manual_seed(0)
    tokens = used_tokens(tokenizer)
    compact = TinySDXL(tokens).eval()
    full = expand_vocabulary(compact, tokens).eval()
    ids = tokenizer(CAPTIONS)
    with torch.no_grad():
        one, other = compact.encode(ids), full.encode(ids)
    assert one.context.shape == (3, 77, 96)
    assert torch.equal(one.context, other.context)
    assert torch.equal(one.pooled, other.pooled)


def test_zero_terminal_snr():
    scheduler = noise_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    noise, clean = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([999])
    torch.testing.assert_close(scheduler.add_noise(clean, noise, last), noise, atol=1e-3, rtol=0)
    torch.testing.assert_close(scheduler.get_velocity(clean, noise, last), -clean, atol=1e-3, rtol=0)
