"""LoRA files of several programs, told from their headers."""

import pytest
import torch
from peft import LoHaConfig, get_peft_model

from difflora_core.file_info.describe_file import describe_file
from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.lora import LoRA
from tests.core.lora.programs import ATTENTION, kohya, layout_of, network, written_by_peft


def described(path, tensors, metadata=None) -> list[str]:
    write_tensors(path / "x.safetensors", tensors, metadata)
    return describe_file(path / "x.safetensors")


@pytest.mark.parametrize(("format", "names"), [("kohya", "kohya"), ("peft", "diffusers with PEFT")])
def test_our_own(tmp_path, format, names):
    layout = layout_of()
    LoRA(torch.zeros(layout.numel), layout, {"seed": 7, "references": 2}).save(tmp_path / "x.safetensors", format)
    facts = describe_file(tmp_path / "x.safetensors")
    assert "LoRA made by DiffLoRA" in facts[0]
    for fact in (f"names: {names}", f"modules: {len(layout.modules)} of the U-Net", "rank: 4"):
        assert fact in facts
    assert "made by: seed 7, references 2" in facts
    assert "base model: not a published one, by its text embeddings of width 24" in facts


def test_sdxl_is_recognized_by_its_shapes(tmp_path):
    layout = LoRALayout.from_config(None, rank=1)
    tensors = {
        f"{layout.base.kohya_name(module.name)}.{factor}.weight": torch.zeros(shape, dtype=torch.float16)
        for module in layout.modules[:20]
        for factor, shape in (("lora_down", (1, module.in_features)), ("lora_up", (module.out_features, 1)))
    }
    assert "base model: SDXL, by its text embeddings of width 2048" in described(tmp_path, tensors)


def test_ranks_text_encoders_and_metadata(tmp_path):
    first, *_ = lora = kohya()
    lora[first.replace("alpha", "lora_down.weight")] = torch.zeros(8, 32)
    lora["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.zeros(4, 8)
    metadata = {
        "ss_network_alpha": "2.0",
        "modelspec.author": "Ann \x1b[31m" + "n" * 500,
        "ss_tag_frequency": '{"a": {"person": 3}}',
        "format": "pt",
    }
    facts = described(tmp_path, lora, metadata)
    assert "rank: 4 to 8, most often 4" in facts
    assert any(fact.endswith(" of the U-Net, 1 of text encoders") for fact in facts)
    assert any(fact.startswith("scale: alpha / rank, with") and "2.0 by the metadata" in fact for fact in facts)
    assert "written by: kohya sd-scripts, or a program with its metadata" in facts
    assert "more metadata: ss_tag_frequency" in facts
    (author,) = (fact for fact in facts if fact.startswith("modelspec.author"))
    assert author.startswith("modelspec.author: Ann \\x1b[31mnn")
    assert len(author) < 240


def test_onetrainer(tmp_path):
    assert "written by: OneTrainer" in described(tmp_path, kohya(), {"ot_branch": "master", "ss_steps": "5"})


def test_peft_needs_its_configuration(tmp_path):
    _, path = written_by_peft(tmp_path)
    facts = describe_file(path)
    assert "names: PEFT's own" in facts
    assert "scale: in adapter_config.json beside the file" in facts
    (tmp_path / "adapter_config.json").unlink()
    assert "scale: in adapter_config.json beside the file, which is not there: copy it, too" in describe_file(path)


def test_other_names(tmp_path):
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    for key, names in (
        (f"unet.{module}.processor.to_q_lora.down.weight", "diffusers before PEFT"),
        (f"lycoris_{module.replace('.', '_')}_to_q.lora_down.weight", "LyCORIS"),
        (
            "diffusion_model.input_blocks.4.1.proj_in.lora_down.weight",
            "ComfyUI's Train LoRA or Extract and Save Lora",
        ),
    ):
        facts = described(
            tmp_path, {key: torch.zeros(4, 8), key.replace("down.weight", "up.weight"): torch.zeros(8, 4)}
        )
        assert f"names: {names}" in facts
        assert "modules: 1 of the U-Net" in facts
        assert "scale: 1" in facts


def test_other_methods_are_named(tmp_path):
    get_peft_model(network(), LoHaConfig(r=4, target_modules=ATTENTION)).save_pretrained(tmp_path / "loha")
    facts = describe_file(tmp_path / "loha" / "adapter_model.safetensors")
    assert "no LoRA but another method" in facts[0]
    assert "tensors of LoHa" in facts[0]
    assert any("docs/lora_files.md" in fact for fact in facts)
    dora = {**kohya(), "lora_unet_x.dora_scale": torch.zeros(8)}
    assert "LoRA with parts of another method (1 tensors of DoRA)" in described(tmp_path, dora)[0]
