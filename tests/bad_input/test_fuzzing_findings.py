"""Files that fuzzing found, or that its findings led to: each is refused by name, and none takes much memory."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.file_formats import lora_state_dict, read_lora
from difflora_core.model import DiffLoRA
from tests.bad_input.small_files import LAYOUT, write_checkpoint
from training.autoencoder.settings import LAESettings
from training.engine.settings import read_settings
from training.lora_dataset.config import load_config
from training.lora_dataset.stages.lora_files import import_lora

LAE = "stores: [store]\noutput: out\n"
DATASET = "workspace: work\nbase: base\n"


def write_header(path: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("read", [read_tensors, lambda path: read_lora(path, LAYOUT), DiffLoRA.load])
@pytest.mark.parametrize("shape", [[2**63, 0], [0, 2**62, 2**62]])
def test_widths_beside_0_that_torch_cannot_have(tmp_path, read, shape):
    path = tmp_path / "file.safetensors"
    write_header(path, {"a.lora_A.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    with pytest.raises(
        ValueError, match=r"damaged header: tensor 'a\.lora_A\.weight' has the impossible shape"
    ) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_contents, read_lora, import_lora])
@pytest.mark.parametrize("name", ["x.weight", "lora_unet_conv_in.lora_down.weight"])
def test_a_refused_lora_is_named(tmp_path, read, name):
    path = tmp_path / "file.safetensors"
    write_tensors(path, lora_state_dict(torch.ones(LAYOUT.numel), LAYOUT) | {name: torch.ones(2, 2)})
    with pytest.raises(ValueError, match=re.escape(f"{path}: The LoRA ") + ".*" + name.split(".")[0]):
        read(path, LAYOUT)


@pytest.mark.parametrize("read", [read_lora, import_lora])
@pytest.mark.parametrize("name", ["lora_te1_x.lora_up.weight", "lora_unet_conv_in.diff"])
def test_a_lora_with_more_than_the_layout_is_named(tmp_path, read, name):
    path = tmp_path / "file.safetensors"
    write_tensors(path, lora_state_dict(torch.ones(LAYOUT.numel), LAYOUT) | {name: torch.ones(2, 2)})
    with pytest.raises(ValueError, match=re.escape(f"{path}: The LoRA ")):
        read(path, LAYOUT)


@pytest.mark.parametrize("middle", [False, True])
def test_a_rank_far_above_the_widths_takes_no_more_memory_than_the_file(tmp_path, middle):
    """Both products of rank × rank would take 20 GB."""
    path, rank, layer = tmp_path / "file.safetensors", 50_000, "lora_unet_conv_in"
    tensors = lora_state_dict(torch.ones(LAYOUT.numel), LAYOUT)
    tensors |= {f"{layer}.lora_down.weight": torch.full((rank, 1), 0.5), f"{layer}.lora_up.weight": torch.ones(1, rank)}
    if middle:
        tensors |= {
            f"{layer}.lora_down.weight": torch.ones(1, 1),
            f"{layer}.lora_mid.weight": torch.full((rank, 1, 1, 1), 0.5),
        }
    write_tensors(path, tensors)
    assert read_contents(path, LAYOUT).other_norm == pytest.approx((rank / 2) ** 2)


def test_factors_that_differ_in_rank_from_the_middle_one_are_refused(tmp_path):
    path, layer = tmp_path / "file.safetensors", "lora_unet_conv_in"
    shapes = {"down": (3, 2, 1, 1), "mid": (1, 3, 3, 3), "up": (4, 2, 1, 1)}
    other = {f"{layer}.lora_{role}.weight": torch.ones(shape) for role, shape in shapes.items()}
    write_tensors(path, lora_state_dict(torch.ones(LAYOUT.numel), LAYOUT) | other)
    with pytest.raises(ValueError, match=f"The factors of {layer} do not fit one another"):
        read_contents(path, LAYOUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAE + "? ~\n: 1\n? null\n: 2\n", "the key 'None' stands twice, the second time in line 5"),
        ("stores: [~no-such-user/x]\noutput: out\n", "stores.0: found '~no-such-user/x', expected a path: Could not"),
        ('stores: ["a\\0b"]\noutput: out\n', "stores.0: embedded null byte"),
    ],
)
def test_settings(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_settings(LAESettings, path)


@pytest.mark.parametrize(
    ("value", "message"),
    [("~no-such-user/x", "found '~no-such-user/x', expected a path"), ('"a\\0b"', "embedded null")],
)
def test_a_source_that_is_no_path_is_refused(tmp_path, value, message):
    path = tmp_path / "settings.yaml"
    path.write_text(f"{DATASET}collect: {{path: {value}}}\n", "utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}: collect.path: {message}")):
        load_config(path)


def test_a_long_name_of_a_data_set_is_no_path(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(f"{DATASET}collect: {{source: datasets, path: {'x' * 5000}}}\n", "utf-8")
    assert load_config(path).collect.path == "x" * 5000


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("layout", "modules"),
            [["mid_block.x", [6], 4]],
            "module is a name and two widths of at least 1, found ['mid",
        ),
        (("layout", "modules"), [["mid_block.x", 6, 0]], "module is a name and two widths of at least 1, found ['mid"),
        (("layout", "modules"), [[3, 6, 4]], "module is a name and two widths of at least 1, found [3, 6, 4]"),
        (("layout", "modules"), [["mid_block.x", 6.0, True]], "found ['mid_block.x', 6.0, True]"),
        (("layout", "rank"), "2", "rank is an integer of at least 1, found '2'"),
        (("layout", "rank"), 2.5, "rank is an integer of at least 1, found 2.5"),
        (("config", "lae", "blocks"), None, "blocks: found None, expected an integer of at least 0"),
        (("config", "lae", "kind"), None, "kind: found None, expected one of conv"),
        (("config", "dit", "layers"), None, "layers: found None, expected an integer of at least 1"),
    ],
)
def test_checkpoints(tmp_path, place, value, message):
    path = tmp_path / "file.safetensors"
    write_checkpoint(path)
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["difflora"])
    section = header
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = value
    write_tensors(path, tensors, metadata | {"difflora": json.dumps(header)})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DiffLoRA.load(path)
    assert str(path) in str(caught.value)
