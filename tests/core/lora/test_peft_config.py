"""Files that PEFT and diffusers write: ΔW is their own, module by module; what is no LoRA is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.layout import LoRALayout
from tests.core.lora.programs import ATTENTION, kohya, layout_of, network, randomize, written_by_peft


def largest_error(model: torch.nn.Module, path: Path, layout: LoRALayout) -> float:
    """The largest relative error over modules of ΔW as read, against the program's own."""
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    errors = []
    for name, (down, up) in read_contents(path, layout).factors.items():
        expected = layers[name].get_delta_weight("default").detach().double()
        errors.append(float((up.double() @ down.double() - expected).norm() / expected.norm()))
    assert len(errors) == len(layout.modules)
    return max(errors)


PATTERNS = {
    "rank_pattern": {"attn2.to_k": 2, r".*up_blocks.*attn1\.to_q": 6},
    "alpha_pattern": {r"down_blocks\.1\.attentions\.0\..*": 3, "to_v": 5.5},
}


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_alpha": 1}, {"use_rslora": True}, PATTERNS, PATTERNS | {"use_rslora": True}, {"bias": "none"}],
    ids=["alpha 16", "alpha 1", "rank-stabilized", "patterns", "patterns, rank-stabilized", "bias none"],
)
def test_peft(tmp_path, settings):
    model, path = written_by_peft(tmp_path, **settings)
    assert largest_error(model, path, layout_of()) <= 1e-5


def test_peft_without_its_configuration_is_refused(tmp_path):
    _, path = written_by_peft(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"PEFT keeps alpha in adapter_config\.json: copy that file into "):
        read_contents(path, layout_of())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 8}, r"has rank 4 in .*, and .*adapter_config\.json says 8: it is of another LoRA"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": 10**400}, "expected a rank and a number"),
        ({"peft_type": "LOHA"}, "PEFT's LOHA, which is another method"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens, which is more than a LoRA"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "too complex"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
        ({"rank_pattern": [4]}, "not a table of numbers"),
    ],
    ids=["rank", "none", "nan", "vast", "method", "pissa", "alora", "slow pattern", "bad pattern", "list"],
)
def test_wrong_configurations_of_peft(tmp_path, change, message):
    _, path = written_by_peft(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_contents(path, layout_of())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected a JSON object"),
        ("[" * 99999, "is not JSON"),
        ('{"r": ' + "1" * 5000 + "}", r"adapter_config\.json is not JSON"),
    ],
    ids=["cut off", "list", "deep", "long number"],
)
def test_damaged_configurations_of_peft(tmp_path, text, message):
    _, path = written_by_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_contents(path, layout_of())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector belongs to DoRA, another method"),
        ({"lora_bias": True}, r"lora_B\.bias changes a bias"),
    ],
    ids=["dora", "bias"],
)
def test_more_than_a_lora_of_peft(tmp_path, settings, message):
    _, path = written_by_peft(tmp_path, **settings)
    with pytest.raises(ValueError, match=rf"{message}.*Extract and Save Lora"):
        read_contents(path, layout_of())


@pytest.mark.parametrize(("config", "name"), [(LoHaConfig, "LoHa"), (LoKrConfig, "LoKr")])
def test_other_methods_of_peft(tmp_path, config, name):
    randomize(get_peft_model(network(), config(r=4, target_modules=ATTENTION))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"belongs to {name}, another method than LoRA"):
        read_contents(tmp_path / "adapter_model.safetensors", layout_of())


def test_layers_outside_the_layout_are_counted_with_their_scale(tmp_path):
    model, path = written_by_peft(tmp_path, target_modules=[*ATTENTION, "proj_in", "conv1"], **PATTERNS)
    contents = read_contents(path, layout_of())
    others = [
        layer
        for name, layer in model.named_modules()
        if name.endswith((".proj_in", ".conv1")) and hasattr(layer, "get_delta_weight")
    ]
    expected = sum(float(layer.get_delta_weight("default").detach().double().square().sum()) for layer in others)
    assert len(contents.other_layers) == len(others) > 5
    assert len(contents.other_tensors) == 2 * len(others)
    assert contents.other_norm == pytest.approx(expected, rel=1e-5)
    assert largest_error(model, path, layout_of()) <= 1e-5


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_alpha": 8}, {"use_rslora": True}, PATTERNS],
    ids=["alpha 16", "alpha 8", "rank-stabilized", "patterns"],
)
@pytest.mark.parametrize("writer", ["pipeline", "network"])
def test_diffusers_with_its_metadata(tmp_path, writer, settings):
    unet = network()
    config = LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ATTENTION, **settings})
    unet.add_adapter(config)
    randomize(unet)
    if writer == "network":
        unet.save_lora_adapter(tmp_path)
    else:
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path, get_peft_model_state_dict(unet), unet_lora_adapter_metadata=config.to_dict()
        )
    assert largest_error(unet, tmp_path / "pytorch_lora_weights.safetensors", layout_of()) <= 1e-5


def test_diffusers_without_metadata_means_alpha_equal_to_rank_as_diffusers_reads_it(tmp_path):
    unet = network()
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION))
    randomize(unet)
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(unet))
    assert largest_error(unet, tmp_path / "pytorch_lora_weights.safetensors", layout_of()) <= 1e-5


def test_a_configuration_of_peft_beside_kohyas_file_is_not_its_own(tmp_path):
    written_by_peft(tmp_path)
    save_file(kohya(), tmp_path / "kohya.safetensors")
    assert torch.equal(read_lora(tmp_path / "kohya.safetensors", layout_of()), read_lora(kohya(), layout_of()))


def test_alpha_tensors_that_contradict_the_configuration(tmp_path):
    _, path = written_by_peft(tmp_path)
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(".lora_A.weight"))
    save_file(tensors | {key.replace(".lora_A.weight", ".alpha"): torch.tensor(16.0)}, path)
    read_contents(path, layout_of())
    save_file(tensors | {key.replace(".lora_A.weight", ".alpha"): torch.tensor(2.0)}, path)
    with pytest.raises(ValueError, match=r"the scale 0\.5 in .* by its alpha, and 4 by .*adapter_config"):
        read_contents(path, layout_of())


def test_a_copy_elsewhere_needs_its_configuration_too(tmp_path):
    model, path = written_by_peft(tmp_path / "a", layers_per_block=2)
    (tmp_path / "b").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(path.with_name(name), tmp_path / "b" / name)
    assert largest_error(model, tmp_path / "b" / path.name, layout_of(2)) <= 1e-5
