"""Models of other programs, told from the names and shapes of their tensors."""

import pytest
import torch

from difflora_core.file_info.describe_file import describe_file
from difflora_core.files import write_tensors
from miniature.paths import WEIGHTS
from training.instantid.instantid_files import resampler_shapes


def described(path, shapes) -> list[str]:
    tensors = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    write_tensors(path / "who.safetensors", tensors)
    return describe_file(path / "who.safetensors")


KEYS = {"ip_adapter.1.to_k_ip.weight": (1, 2048)}


@pytest.mark.parametrize(
    ("shapes", "kind", "fact"),
    [
        ({"id_encoder.x": (1,), "lora_weights.unet.y.lora_A.weight": (4, 8)}, "PhotoMaker V1", "models/photomaker"),
        (
            {"id_encoder.qformer_perceiver.token_norm.weight": (1,), "lora_weights.y": (4, 8)},
            "PhotoMaker V2",
            "models/photomaker",
        ),
        ({"0.to_q.id_down_basis": (1, 2, 3)}, "HyperLoRA", "models/hyper_lora"),
        (
            {f"image_proj.{name}": shape for name, shape in resampler_shapes(64, 2, 512, 8).items()} | KEYS,
            "InstantID",
            "base model: SDXL",
        ),
        ({"image_proj.mapping_0.0.weight": (1, 1), **KEYS}, "PuLID", "models/pulid"),
        (
            {"image_proj.proj.0.weight": (1, 512), "ip_adapter.0.to_q_lora.down.weight": (4, 8), **KEYS},
            "IP-Adapter FaceID",
            "base model: SDXL",
        ),
        ({"image_proj.proj.weight": (1, 1), "ip_adapter.1.to_k_ip.weight": (1, 768)}, "IP-Adapter", "Diffusion 1"),
        ({"image_proj.proj.weight": (1, 1), "ip_adapter.3.to_k_ip.weight": (1, 7)}, "IP-Adapter", "not recognized"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "embedding", "base model: SDXL"),
        ({"emb_params": (3, 1024)}, "embedding", "base model: Stable Diffusion 2"),
        ({"clip_l": (2, 16), "clip_g": (2, 16)}, "embedding", "base model: not a published one"),
        (
            {
                "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (1, 2048),
                "conditioner.embedders.0.x": (1,),
                "conditioner.embedders.1.x": (1,),
            },
            "base model in a single file",
            "base model: SDXL, by its text embeddings of width 2048",
        ),
        (
            {"model.diffusion_model.double_blocks.0.img_mod.lin.weight": (1, 1)},
            "base model in a single file",
            "base model: not recognized",
        ),
        ({"down_blocks.0.x": (1,), "mid_block.x": (1,), "up_blocks.0.x": (1,)}, "U-Net", "not recognized"),
        ({"encoder.x": (1,), "decoder.x": (1,), "quant_conv.weight": (1,)}, "VAE", "models/vae"),
        ({"input_hint_block.0.weight": (1,)}, "ControlNet", "models/controlnet"),
    ],
)
def test_kinds(tmp_path, shapes, kind, fact):
    facts = described(tmp_path, shapes)
    assert facts[0].split(": ", 1)[1].startswith(kind)
    assert any(fact in line for line in facts[1:])


def test_an_embedding_says_what_to_write_in_a_prompt(tmp_path):
    facts = described(tmp_path, {"clip_l": (2, 768), "clip_g": (2, 1280)})
    assert "tokens: 2" in facts
    assert "widths: clip_l 768, clip_g 1280" in facts
    assert facts[-1].endswith("in a prompt: embedding:who")


@pytest.mark.parametrize(
    ("file", "kind", "fact"),
    [
        ("checkpoints/miniature_sdxl", "base model in a single file", "parts: U-Net, VAE, two text encoders"),
        ("controlnet/miniature_canny", "Control-LoRA", "width 96"),
        ("clip_vision/miniature/model", "CLIP vision model", "models/clip_vision"),
        ("loras/miniature_blue_beanie", "LoRA", "rank: 4"),
    ],
)
def test_real_files(file, kind, fact):
    facts = describe_file(WEIGHTS / f"{file}.safetensors")
    assert facts[0].endswith(f": {kind}")
    assert any(fact in line for line in facts)
