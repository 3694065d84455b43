"""The loaders on a ComfyUI without a checkpoint, as an SDXL user has it, and `auto` of Load Face Analysis."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from difflora_core.checkpoint import HEADER
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.comfyui.workflows import FOLDER, REFERENCES
from miniature.demo.serve import example_images
from miniature.paths import DIFFLORA_CHECKPOINT
from training.comfyui_client import Client, PromptError


@pytest.fixture
def empty_base(tmp_path: Path) -> Path:
    """A base folder with everything but a DiffLoRA checkpoint."""
    base = prepare_base(tmp_path)
    example_images(base / "input")
    paths = json.loads((base / "extra_model_paths.yaml").read_text(encoding="utf-8"))
    del paths["miniature"]["difflora"]
    (base / "extra_model_paths.yaml").write_text(json.dumps(paths), encoding="utf-8")
    (base / "models" / "difflora").mkdir()
    return base


@pytest.fixture
def without_checkpoint(empty_base: Path) -> Iterator[Client]:
    with Host(empty_base) as host:
        yield Client(host.url)


def crops(model: ApiPrompt | None = None) -> ApiPrompt:
    """A prompt that detects a face with the pack that `auto` finds, of the checkpoint that `model` loads."""
    graph = model or ApiPrompt({})
    graph.add("Image", "LoadImage", image=REFERENCES[0])
    graph.add("Faces", "DiffLoRALoadFaceAnalysis", model_pack="auto", provider="CPU")
    if model:
        graph.set("Faces", model=graph.output("Load"))
    links = {"image": graph.output("Image"), "face_analysis": graph.output("Faces")}
    graph.add("Encode", "DiffLoRAEncodeFace", choose="largest", index=0, aligned=False, **links)
    return graph.add("Crops", "PreviewImage", images=graph.output("Encode", 1))


def write_header(path: Path, face: str) -> None:
    """Write a file that says that it is a checkpoint for another model pack."""
    with safe_open(DIFFLORA_CHECKPOINT, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    header["config"]["encoders"]["face"] = face
    save_file({}, path, {HEADER: json.dumps(header)})


def test_what_a_user_without_a_checkpoint_is_told(without_checkpoint: Client, empty_base: Path) -> None:
    client, folder = without_checkpoint, empty_base / "models" / "difflora"
    info = client.object_info()
    assert info["DiffLoRALoad"]["input"]["required"]["checkpoint"][1]["options"] == ["no DiffLoRA checkpoint found"]
    graph = ApiPrompt.load(FOLDER / "1-Portrait-from-one-picture.json", info)
    with pytest.raises(
        PromptError, match=r"(?s)there is no DiffLoRA checkpoint.*is published: docs/training\.md.*nox -s serve"
    ):
        client.run(graph.prompt)
    with pytest.raises(PromptError, match=r"is auto, but in models/difflora there is no checkpoint: connect"):
        client.run(crops().prompt)

    shutil.copyfile(DIFFLORA_CHECKPOINT, folder / "mine.safetensors")
    with pytest.raises(PromptError, match=r"there is no 'miniature\.safetensors' in models/difflora, only mine"):
        client.run(graph.prompt)
    client.run(crops().prompt)

    write_header(folder / "other.safetensors", "measuring")
    with pytest.raises(PromptError, match=r"mine\.safetensors needs miniature, other\.safetensors needs measuring"):
        client.run(crops().prompt)
    loaded = ApiPrompt({}).add("Load", "DiffLoRALoad", checkpoint="mine.safetensors", precision="fp32")
    client.run(crops(loaded).prompt)

    (folder / "mine.safetensors").unlink()
    write_header(folder / "other.safetensors", "buffalo_l")
    with pytest.raises(PromptError, match=r"no face model pack 'buffalo_l' .* Unpack one"):
        client.run(crops().prompt)
