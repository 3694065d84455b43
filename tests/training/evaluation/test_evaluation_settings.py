"""Settings of the evaluation, people and prompts: what is read, what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from training.engine.settings import read_settings
from training.evaluation.command import with_methods
from training.evaluation.method_settings import MethodSettings, given_method
from training.evaluation.people_folders import read_people, seen_references
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import EvaluationSettings

FOLDER = Path(__file__).parents[3] / "training" / "evaluation"
MINIMAL = "people: people\nprompts: prompts.yaml\nbase: base\noutput: out\nmethods:\n  none: {kind: none}\n"


def read(folder: Path, text: str = MINIMAL) -> EvaluationSettings:
    (folder / "evaluation.yaml").write_text(text)
    return read_settings(EvaluationSettings, folder / "evaluation.yaml")


@pytest.mark.parametrize("name", ["miniature", "sdxl"])
def test_shipped_settings(name: str) -> None:
    settings = read_settings(EvaluationSettings, FOLDER / "configs" / f"{name}.yaml")
    prompts = read_prompt_list(settings.prompts)
    assert len(prompts) == 30
    assert [prompt.number for prompt in prompts] == list(range(1, 31))
    assert settings.baseline == "DiffLoRA"


def test_model_names_are_repositories_or_paths(tmp_path: Path) -> None:
    text = MINIMAL + "metrics: {clip: [openai/clip, ./clip, ../other/clip]}\n"
    clip = read(tmp_path, text).metrics.clip
    assert clip == ("openai/clip", str(tmp_path / "clip"), str(tmp_path.parent / "other" / "clip"))


def test_files_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For recipes, in which earlier steps write some of them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    text = MINIMAL + "  own: {kind: difflora, path: own.safetensors, face_models: faces}\n"
    text += "metrics: {faces: {pack: p, root: faces}, dino: ./dino, pick_score: yuvalkirstain/PickScore_v1}\n"
    files = read(tmp_path, text).files()
    names = {setting: path.relative_to(tmp_path).as_posix() for setting, path in files.items()}
    assert names == {
        "people": "people",
        "prompts": "prompts.yaml",
        "base": "base",
        "methods.own.path": "own.safetensors",
        "methods.own.face_models": "faces",
        "metrics.faces": "faces/models/p",
        "metrics.dino": "dino",
        "metrics.pick_score": "hub/models--yuvalkirstain--PickScore_v1",
    }


def test_people_of_a_folder_or_of_a_dataset(tmp_path: Path) -> None:
    settings = read(tmp_path, MINIMAL.replace("people: people", "dataset: dataset.yaml"))
    assert (settings.people, settings.dataset, settings.split) == (None, tmp_path / "dataset.yaml", "test")
    assert settings.files()["dataset"] == tmp_path / "dataset.yaml"
    for text, found in (("", "neither"), ("people: people\ndataset: dataset.yaml\n", "both")):
        with pytest.raises(ValueError, match=f"says who is evaluated; found {found}"):
            read(tmp_path, MINIMAL.replace("people: people\n", text))
    with pytest.raises(ValueError, match=r"split: .*found 'train'"):
        read(tmp_path, MINIMAL.replace("people: people", "dataset: dataset.yaml\nsplit: train"))


def test_prompts_are_the_project_s_own_unless_others_are_named(tmp_path: Path) -> None:
    settings = read(tmp_path, MINIMAL.replace("prompts: prompts.yaml\n", ""))
    assert settings.prompts == FOLDER / "prompts" / "portraits.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{kind: none, path: x}", "methods.none.*the kind none has no path"),
        ("{kind: lora}", "path is missing: for the kind lora it is a folder with PERSON.safetensors"),
        ("{kind: photomaker, path: x}", "face_models is missing"),
        ("{kind: photomaker, path: x, face_models: y, style_strength: 100}", "style_strength.* 100"),
        ("{kind: magic}", "found 'magic'"),
        ("{kind: none, side: positive}", "side is positive, but a method of the kind none is no LoRA"),
        (
            "{kind: none, training: {steps: 5}}",
            "training is set, but a method of the kind none does not use it, only dreambooth",
        ),
        ("{kind: difflora, path: x, caption: 'a drawing of {person}'}", "caption is set, but only a refinement"),
        ("{kind: lora, path: x, references: 1}", "references is set, but a method of the kind lora does not use it"),
        ("{kind: lora, path: x, side: negative}", "side: .*found 'negative'"),
    ],
)
def test_methods_that_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, MINIMAL.replace("{kind: none}", change))


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "x" * 61, "a:b", "CON", "com1.a"])
def test_names_that_can_be_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="can't be a method's name"):
        read(tmp_path, MINIMAL.replace("  none:", f'  "{name}":'))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("size: 100", "multiple of 8"),
        ("seeds: [1, 1]", "different numbers"),
        ("seeds: []", "different numbers"),
        ("compared_with: other", "compared_with is 'other'"),
        ("steps: 0", "steps"),
        ("step: 3", "unknown setting 'step'"),
    ],
)
def test_values_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, MINIMAL + line + "\n")


def test_methods_of_the_command_line(tmp_path: Path) -> None:
    settings = with_methods(read(tmp_path), ["theirs=pictures", "pack=comfy:graph.json"])
    assert settings.methods["theirs"] == MethodSettings("images", Path.cwd() / "pictures")
    assert settings.methods["pack"] == MethodSettings("comfyui", Path.cwd() / "graph.json")
    for text in ("theirs", "=x", "pack=comfy:"):
        with pytest.raises(ValueError, match="expected NAME=FOLDER"):
            given_method(text)
    with pytest.raises(ValueError, match="two methods 'none'"):
        with_methods(settings, ["none=x"])


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (32, 32)).save(folder / name)


def test_people(tmp_path: Path) -> None:
    write_images(tmp_path / "people" / "ann" / "references", "b.png", "a.png")
    write_images(tmp_path / "people" / "ann" / "others", "c.png")
    write_images(tmp_path / "people" / "bob", *(f"{number}.png" for number in range(5)))
    ann, bob = read_people(read(tmp_path))
    assert [path.name for path in ann.references] == ["a.png", "b.png"]
    assert [path.name for path in ann.others] == ["c.png"]
    assert (len(bob.references), len(bob.others)) == (3, 2)
    assert [path.name for path in seen_references(ann, 1)] == ["a.png"]
    with pytest.raises(ValueError, match="ann has 2 reference images, the method needs 3"):
        seen_references(ann, 3)
    (tmp_path / "people" / "bob" / "others").mkdir()
    with pytest.raises(ValueError, match="bob has a folder others, but no folder references"):
        read_people(read(tmp_path))
    (tmp_path / "people" / "bob" / "others").rmdir()
    for link in (tmp_path / "people" / "ann" / "others" / "d.png", tmp_path / "people" / "dora"):
        link.symlink_to(tmp_path / "photos")
        with pytest.raises(ValueError, match=rf"{link} is a link to .*photos, which is not there: correct or delete"):
            read_people(read(tmp_path))
        link.unlink()
    (tmp_path / "people" / "cy").mkdir()
    with pytest.raises(ValueError, match="cy holds no image"):
        read_people(read(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_a_person_s_name_that_no_report_can_hold(tmp_path: Path) -> None:
    write_images(tmp_path / "people" / "new\nline", "a.png")
    with pytest.raises(ValueError, match=r"new\\nline: the person's name has characters that can't be shown: rename"):
        read_people(read(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no prompts"),
        ("view: [a person]", r"\{person\} is not in the prompt"),
        ("view: ['{person}', '{person}']", "stands twice"),
        ("weather: ['{person}']", "unknown setting 'weather'"),
    ],
)
def test_prompts_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompt_list(tmp_path / "prompts.yaml")


def test_settings_need_no_torch() -> None:
    modules = "training.evaluation.settings, training.evaluation.prompt_list"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=FOLDER.parents[1])
