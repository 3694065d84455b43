"""Files changed at random places: each is read, or refused with a ValueError, and nothing else happens."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.lora import LoRA
from difflora_core.model import DiffLoRA
from tests.bad_input.small_files import LAYOUT, write_checkpoint
from training.denoiser.settings import DiffLoRASettings
from training.engine.settings import read_settings
from training.store.shard import read_shard

SHARD = {
    "__metadata__": {"people": "[3, 4]", "provenance": '[{"seed": 1}]', "provenance_of": "[0, 0]"},
    "loras": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 40]},
}
DIFFLORA_SETTINGS = """\
stores: [store]
lae: lae
output: out
encoders: {face: f, image: i}
embeddings: {cache: [c]}
dit: {layers: 2, heads: 2, head_width: 8}
"""
# The same examples in every run, and one slow example is no failure on a shared machine
repeatable = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def write_lora(path: Path) -> None:
    LoRA(torch.ones(LAYOUT.numel), LAYOUT, {"seed": 3}).save(path, format="peft")


def write_shard(path: Path) -> None:
    text = json.dumps(SHARD).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(40))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "LoRA": (write_lora, lambda path: read_contents(path, LAYOUT)),
    "checkpoint": (write_checkpoint, DiffLoRA.load),
    "shard": (write_shard, read_shard),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    for kind, (write, _) in KINDS.items():
        write(folder / kind)
    return folder


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """Return the message of the ValueError with which a file is refused; None if it is read."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return None


def read_difflora_settings(path: Path) -> DiffLoRASettings:
    return read_settings(DiffLoRASettings, path)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(whole, kind, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes((whole / kind).read_bytes())
    KINDS[kind][1](path)


@pytest.mark.parametrize("kind", KINDS)
@repeatable
@given(data=st.data())
def test_changed_bytes(whole, tmp_path, kind, data):
    content = bytearray((whole / kind).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (path := tmp_path / "file.safetensors").write_bytes(content[:end])
    assert refusal(KINDS[kind][1], path) != ""


@pytest.mark.parametrize("kind", KINDS)
@repeatable
@given(data=st.data())
def test_changed_headers(whole, tmp_path, kind, data):
    whole_file = (whole / kind).read_bytes()
    size = int.from_bytes(whole_file[:8], "little")
    header = json.loads(whole_file[8 : 8 + size])
    for _ in range(data.draw(st.integers(1, 2))):
        header = changed(header, data.draw)
    text = json.dumps(header).encode()
    (path := tmp_path / "file.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + whole_file[8 + size :])
    assert refusal(KINDS[kind][1], path) != ""


@repeatable
@given(data=st.data())
def test_changed_settings(tmp_path, data):
    path = tmp_path / "settings.yaml"
    text = DIFFLORA_SETTINGS
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 8))
    path.write_text(text[:start] + data.draw(st.text(max_size=8)) + text[end:], "utf-8")
    message = refusal(read_difflora_settings, path)
    assert message is None or str(path) in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2020-01-01: x", "can't be read as settings: keys must be str"),
        ("? [1, 2]\n: 3", "can't be read as settings: keys must be str"),
        ("lae: &lae [*lae]", "can't be read as settings: Circular reference"),
        ("lae: " + "[" * 3000 + "]" * 3000, "not valid YAML: more than 50 brackets stand inside one another in line 1"),
        ("- " * 3000, "not valid YAML: maximum recursion depth"),
        ("lae: 2020-13-45", "not valid YAML: month must be in 1..12"),
        ("lae: !!float abc", "not valid YAML: could not convert"),
        (f"seed: {'9' * 5000}", "not valid YAML: Exceeds the limit"),
    ],
)
def test_valid_yaml_that_is_no_settings(tmp_path, line, message):
    path = tmp_path / "settings.yaml"
    path.write_text(line, "utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path} ")) as caught:
        read_difflora_settings(path)
    assert message in str(caught.value)


def changed(document: Any, draw: Callable[[Any], Any]) -> Any:
    """Return a JSON document with another value at one place, or without it; texts that are JSON are documents, too."""
    if isinstance(document, str) and document[:1] in ("{", "["):
        return json.dumps(changed(json.loads(document), draw))
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 5)) == 0:
        return draw(json_values)
    document = copy.copy(document)
    key = draw(st.sampled_from(list(document) if isinstance(document, dict) else range(len(document))))
    if draw(st.integers(0, 7)) == 0:
        del document[key]
    else:
        document[key] = changed(document[key], draw)
    return document
