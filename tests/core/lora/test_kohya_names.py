"""A file's tensors as ComfyUI reads them say the same as the file: PEFT's scale is not lost."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.kohya_names import read_with_kohya_names
from tests.core.lora.programs import ATTENTION, kohya, layout_of, network, randomize, written_by_peft

PATTERN = {"lora_alpha": 8, "alpha_pattern": {"to_v": 5.5}, "rank_pattern": {"attn2.to_k": 2}}


def test_a_file_with_other_names_stays_as_it_is(tmp_path):
    path = tmp_path / "kohya.safetensors"
    save_file(kohya(), path)
    read = read_with_kohya_names(path)
    assert read.keys() == kohya().keys()
    assert all(torch.equal(tensor, kohya()[key]) for key, tensor in read.items())


@pytest.mark.parametrize("settings", [{}, PATTERN, {"use_rslora": True}], ids=["alpha 16", "patterns", "stabilized"])
def test_a_file_of_peft(tmp_path, settings):
    _, path = written_by_peft(tmp_path, **settings)
    read = read_with_kohya_names(path)
    assert {key.split(".")[0] for key in read} == {key.split(".")[0] for key in kohya()}
    torch.testing.assert_close(read_contents(read, layout_of()).factors, read_contents(path, layout_of()).factors)


def test_a_file_of_diffusers(tmp_path):
    unet = network()
    unet.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION))
    randomize(unet).save_lora_adapter(tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    read = read_contents(read_with_kohya_names(path), layout_of())
    torch.testing.assert_close(read.factors, read_contents(path, layout_of()).factors)


def test_names_that_comfyui_reads_itself_stay(tmp_path):
    key, path = "diffusion_model.middle_block.1.proj_in.lora_A.weight", tmp_path / "ldm.safetensors"
    save_file({key: torch.ones(2, 3), key.replace("lora_A", "lora_B"): torch.ones(3, 2)}, path)
    assert read_with_kohya_names(path).keys() == load_file(path).keys()


def test_text_encoders_keep_their_names(tmp_path):
    _, path = written_by_peft(tmp_path)
    key = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(load_file(path) | {key: torch.ones(4, 8)}, path)
    assert key in read_with_kohya_names(path)


def test_dora_under_pefts_names_is_refused(tmp_path):
    _, path = written_by_peft(tmp_path, use_dora=True)
    with pytest.raises(ValueError, match=r"safetensors: .*lora_magnitude_vector.* is no factor of a plain LoRA \(DoRA"):
        read_with_kohya_names(path)


def test_a_missing_configuration_is_refused(tmp_path):
    _, path = written_by_peft(tmp_path)
    path.with_name("adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"PEFT keeps alpha in adapter_config\.json: copy that file into "):
        read_with_kohya_names(path)
