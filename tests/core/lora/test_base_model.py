"""Module names of SDXL, and another base model in its place."""

import re

import pytest
import torch
from torch import nn

from difflora_core.lora import base_model
from difflora_core.lora.base_model import SDXL
from difflora_core.lora.file_formats import lora_state_dict, read_lora
from difflora_core.lora.layout import LoRALayout
from difflora_core.lora.tokens import tokens_of

QUERY = "down_blocks.2.attentions.1.transformer_blocks.3.attn2.to_q"


def test_names_of_sdxl():
    base = SDXL()
    assert base.ldm_name(QUERY) == "input_blocks.8.1.transformer_blocks.3.attn2.to_q"
    assert base.ldm_name("up_blocks.1.attentions.2.proj_in") == "output_blocks.5.1.proj_in"
    assert base.ldm_name("mid_block.attentions.0.proj_in") == "middle_block.1.proj_in"
    assert base.kohya_name(QUERY) == "lora_unet_down_blocks_2_attentions_1_transformer_blocks_3_attn2_to_q"
    assert base.peft_name(QUERY) == f"unet.{QUERY}"
    tables = list(base.name_tables([QUERY]))
    assert all({base.kohya_name(QUERY), base.peft_name(QUERY)} <= table.keys() for table in tables)
    assert f"diffusion_model.{base.ldm_name(QUERY)}" in tables[0]
    assert base.split(QUERY) == ("down_blocks.2.attentions.1.transformer_blocks.3", "attn2.to_q")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "network"),
        ("lora_unet_input_blocks_4_1_proj_in", "network"),
        ("lycoris_conv_in", "network"),
        ("unet.mid_block.attentions.0.proj_out", "network"),
        ("base_model.model.up_blocks.0.resnets.0.conv1", "network"),
        ("diffusion_model.out.2", "network"),
        ("time_embedding.linear_1", "network"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text encoder"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "text encoder"),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", "text encoder"),
        ("bundle_emb.anna", "text encoder"),
        ("lora_unet_double_blocks_0_img_attn_proj", None),
        ("id_encoder.visual_projection", None),
    ],
)
def test_parts_of_the_base_model(name, part):
    assert SDXL().part(name) == part


class Tiny:
    """A base model that has nothing in common with SDXL."""

    name = "tiny"

    def network(self, config=None) -> nn.Module:
        with torch.device("meta"):
            return nn.ModuleDict({"late": nn.Linear(4, 5), "early": nn.Linear(3, 4), "other": nn.Linear(2, 2)})

    def is_target(self, module: str, feed_forward: bool) -> bool:
        return re.match("early|late", module) is not None

    def stage(self, module: str) -> int:
        return ("early", "late").index(module)

    def split(self, module: str) -> tuple[str, str]:
        return module, "layer"

    def kohya_name(self, module: str) -> str:
        return f"lora_tiny_{module}"

    def peft_name(self, module: str) -> str:
        return f"tiny.{module}"

    def name_tables(self, modules):
        yield {name: module for module in modules for name in (self.kohya_name(module), self.peft_name(module))}

    def part(self, name: str) -> None:
        return None


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_another_base_model_needs_nothing_but_its_class(monkeypatch, form):
    monkeypatch.setitem(base_model.BASE_MODELS, "tiny", Tiny())
    layout = LoRALayout.from_config(None, 2, base=Tiny())
    assert layout.names == ("early", "late")
    assert LoRALayout.from_dict(layout.to_dict()) == layout
    assert tokens_of(layout).types == (0, 0)
    flat = torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    state = lora_state_dict(flat, layout, form)
    assert next(iter(state)).startswith("lora_tiny_" if form == "kohya" else "tiny.")
    assert torch.equal(read_lora(state, layout), flat)
