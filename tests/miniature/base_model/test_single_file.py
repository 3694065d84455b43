"""SDXL's single-file layout: every tensor goes in under its SDXL name and comes back as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from miniature.base_model.single_file import load_single_file, save_single_file, unet_head_width

TAESD = {"taesd_encoder.0.weight": torch.ones(64, 3, 3, 3), "taesd_decoder.1.weight": torch.ones(64, 4, 3, 3)}


def tiny_unet(layers: int = 2) -> Any:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 32),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 1, 1),
        cross_attention_dim=24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        use_linear_projection=True,
    )


def tiny_clip(kind: Any, width: int, activation: str, layers: int = 3) -> Any:
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=width,
        hidden_act=activation,
        eos_token_id=99,
    )
    return kind(config).requires_grad_(False).eval()


def parts(layers: int = 3) -> tuple[Any, Any]:
    return (
        tiny_clip(CLIPTextModel, 8, "quick_gelu", layers),
        tiny_clip(CLIPTextModelWithProjection, 16, "gelu", layers),
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_round_trip_of_every_key(tmp_path: Path, layers: int) -> None:
    unet, (text, text_2) = tiny_unet(layers), parts()
    save_single_file(tmp_path / "all.safetensors", unet, text, text_2, TAESD, torch.float32)
    back = load_single_file(tmp_path / "all.safetensors")
    pairs = ((unet, back.unet), (text, back.text_encoder), (text_2, back.text_encoder_2))
    for before, after in ((a.state_dict(), b.state_dict()) for a, b in pairs):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert back.taesd.keys() == TAESD.keys() | {"vae_scale", "vae_shift"}
    assert float(back.taesd["vae_scale"]) == pytest.approx(0.13025)


def test_names_are_those_of_sdxl(tmp_path: Path) -> None:
    save_single_file(tmp_path / "all.safetensors", tiny_unet(), *parts(), TAESD)
    stored = load_file(tmp_path / "all.safetensors")
    blocks = "model.diffusion_model."
    for name in (
        blocks + "input_blocks.3.0.op.weight",
        blocks + "input_blocks.8.1.transformer_blocks.1.attn2.to_k.weight",
        blocks + "middle_block.2.out_layers.3.bias",
        blocks + "output_blocks.2.2.conv.weight",
        blocks + "output_blocks.8.0.skip_connection.weight",
        blocks + "label_emb.0.2.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.2.self_attn.q_proj.weight",
        "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
        "first_stage_model.taesd_decoder.1.weight",
        "v_pred",
        "ztsnr",
    ):
        assert name in stored
    assert stored["conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight"].shape == (48, 16)
    assert stored[blocks + "out.2.weight"].dtype == torch.float16
    assert stored["miniature.head_widths"].tolist() == [32, 4, 8]


def test_layers_in_front_change_nothing(tmp_path: Path) -> None:
    """ComfyUI demands three layers; two become three, with the same states counted from the end."""
    text, text_2 = parts(layers=2)
    save_single_file(tmp_path / "all.safetensors", tiny_unet(), text, text_2, TAESD, torch.float32)
    back = load_single_file(tmp_path / "all.safetensors")
    ids = torch.tensor([[1, 5, 7, 99]])
    for before, after in ((text, back.text_encoder), (text_2, back.text_encoder_2)):
        expected, found = (model(ids, output_hidden_states=True) for model in (before, after))
        assert len(found.hidden_states) == len(expected.hidden_states) + 1
        assert torch.equal(found.hidden_states[-2], expected.hidden_states[-2])
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


def test_what_sdxl_cannot_hold_is_refused(tmp_path: Path) -> None:
    text, _ = parts()
    wrong = tiny_clip(CLIPTextModelWithProjection, 16, "quick_gelu")
    with pytest.raises(ValueError, match="CLIP-G: activation 'quick_gelu'"):
        save_single_file(tmp_path / "all.safetensors", tiny_unet(), text, wrong, TAESD)
    with pytest.raises(ValueError, match="heads of"):
        unet_head_width({"block_out_channels": (32, 64), "attention_head_dim": (2, 2)})


def test_a_file_without_configurations_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no configuration of"):
        load_single_file(tmp_path / "x.safetensors")
