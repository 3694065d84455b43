"""The command `difflora`, on the miniature's weights."""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core import command
from difflora_core.command import image_files, main
from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.lora import METADATA_KEY
from difflora_core.model import DiffLoRA
from miniature.paths import DIFFLORA_CHECKPOINT
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person, split_people
from miniature.world.scenes import reference_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three images of a validation person, one of nobody, one that is none, and a letter."""
    torch.set_num_threads(1)
    made, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    who = person(split_people("validation")[0])
    for name in ("a.png", "b.PNG", "c.png"):
        Image.fromarray(draw(who, reference_scene(rng)).image).save(made / name, format="PNG")
    Image.fromarray(draw_empty(reference_scene(rng))).save(made / "nobody.png")
    (made / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    (made / "letter.txt").write_text("dear diary")
    return made


def personalize(*words: object) -> None:
    parser = ArgumentParser()
    command.add_personalize(parser)
    arguments = parser.parse_args(
        [str(word) for word in ("--checkpoint", DIFFLORA_CHECKPOINT, "--device", "cpu", *words)]
    )
    arguments.run(arguments)


def test_a_folder_becomes_the_lora_that_the_library_makes(tmp_path, folder, capsys):
    out = tmp_path / "made" / "person.safetensors"
    options = ("--steps", 2, "--samples", 2, "--guidance", 1.5, "--latent-scale", 1.1, "--temperature", 0.4)
    personalize(folder, "--out", out, *options, "--seed", 3)
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    images = [Image.open(folder / name) for name in ("a.png", "b.PNG", "c.png")]
    settings = {"steps": 2, "samples": 2, "guidance_scale": 1.5, "latent_scale": 1.1, "temperature": 0.4}
    expected = model.personalize(images, generator=torch.Generator().manual_seed(3), **settings)
    torch.testing.assert_close(read_lora(out, model.layout), expected.flat)
    made_by = json.loads(read_tensors(out)[1][METADATA_KEY])
    assert made_by == expected.made_by
    assert made_by.items() >= {"references": 3, "seed": 3, "mode": "gate", **settings}.items()
    output = capsys.readouterr()
    assert "from 3 of 5 images" in output.out
    assert "no face" in output.err
    assert "nobody.png" in output.err
    assert "unreadable" in output.err
    assert "broken.jpg" in output.err
    assert not list(out.parent.glob(".*"))


def test_single_files_and_diffusers_names(tmp_path, folder):
    out = tmp_path / "person.safetensors"
    personalize(folder / "a.png", folder / "c.png", "--out", out, "--steps", 1, "--format", "diffusers")
    tensors, metadata = read_tensors(out)
    assert all(name.startswith("unet.") for name in tensors)
    assert json.loads(metadata[METADATA_KEY])["references"] == 2


@pytest.mark.parametrize("names", [["nobody.png"], ["broken.jpg", "nobody.png"]])
def test_without_a_usable_image_nothing_is_written(tmp_path, folder, names):
    out = tmp_path / "person.safetensors"
    with pytest.raises(ValueError, match=f"none of the {len(names)} images can be used; the first: .*{names[0]}"):
        personalize(*(folder / name for name in names), "--out", out)
    assert not list(tmp_path.iterdir())


def test_impossible_settings_are_refused_before_any_image_is_read(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("difflora_core.model.encode_references", lambda *_, **__: pytest.fail("images were read"))
    for setting in (
        ("--steps", 0),
        ("--steps", 10_000),
        ("--guidance", -1),
        ("--samples", 0),
        ("--latent-scale", "nan"),
        ("--temperature", 2.5),
    ):
        with pytest.raises(ValueError, match=f"found {setting[1]}"):
            personalize(folder, "--out", tmp_path / "person.safetensors", *setting)


@pytest.mark.parametrize("out", [".", "person.ckpt"])
def test_what_is_no_file_for_a_lora_is_refused(tmp_path, folder, out):
    with pytest.raises(ValueError, match=r"ending in \.safetensors; found"):
        personalize(folder, "--out", tmp_path / out)


def test_out_replaces_nothing_but_a_former_lora(tmp_path, folder):
    out = tmp_path / "person.safetensors"
    options = ("--out", out, "--steps", 1, "--samples", 1)
    personalize(folder / "a.png", *options)
    former = out.read_bytes()
    personalize(folder / "c.png", *options)
    assert out.read_bytes() != former
    out.write_bytes(DIFFLORA_CHECKPOINT.read_bytes())
    with pytest.raises(ValueError, match=r"would replace .*person\.safetensors: DiffLoRA checkpoint; only LoRAs"):
        personalize(folder / "a.png", *options)
    assert out.read_bytes() == DIFFLORA_CHECKPOINT.read_bytes()


def test_out_below_a_file_is_refused_before_any_work(tmp_path, folder):
    with pytest.raises(ValueError, match=r"letter\.txt is a file, expected a folder"):
        personalize(folder, "--out", folder / "letter.txt" / "more" / "person.safetensors")


def test_places_without_images_are_named(tmp_path):
    (tmp_path / "inside").mkdir()
    with pytest.raises(ValueError, match="holds no images: expected jpg"):
        image_files([tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        image_files([tmp_path / "nowhere"])


def test_what_a_folder_holds_beside_images_is_counted_and_named(tmp_path, folder, capsys):
    for name in ("a.heic", "b.jxl", "c", "d.HEIC", "e.mov", "f.psd", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"6 files passed over: a\.heic, b\.jxl, c, d\.HEIC, e\.mov, …; images are jpg"
    ):
        image_files([tmp_path])
    (tmp_path / "a.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "._a.png").write_bytes(b"a thumbnail")
    (tmp_path / "inside.png").mkdir()
    assert image_files([tmp_path, folder / "b.PNG"])[0] == [tmp_path / "a.png", folder / "b.PNG"]
    personalize(folder, "--out", tmp_path / "out" / "p.safetensors", "--steps", 1)
    assert "1 file passed over: letter.txt" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"--device cuda:1 can't be used: .*Found here: cpu$"):
        personalize(folder, "--out", tmp_path / "person.safetensors", "--device", "cuda:1")


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["difflora", *map(str, words)])
    return main()


def test_errors_are_one_line(tmp_path, folder, monkeypatch, capsys):
    words = ("personalize", folder, "--out", tmp_path / "p.safetensors", "--checkpoint", folder / "a.png")
    assert run(monkeypatch, *words) == 1
    output = capsys.readouterr().err
    assert "not a safetensors file" in output
    assert "Traceback" not in output


def test_info_is_a_few_lines(monkeypatch, capsys):
    assert run(monkeypatch, "info", DIFFLORA_CHECKPOINT) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{DIFFLORA_CHECKPOINT}: DiffLoRA checkpoint"
    assert len(lines) < 16
    assert run(monkeypatch, "info", DIFFLORA_CHECKPOINT, "--metadata") == 0
    assert "    provenance:" in "\n".join(capsys.readouterr().out.splitlines()[len(lines) :])


def test_info_brings_no_library_that_takes_seconds():
    code = (
        "import sys; from difflora_core.command import main\n"
        f"sys.argv = ['difflora', 'info', {str(DIFFLORA_CHECKPOINT)!r}]; main()\n"
        "assert not {'diffusers', 'transformers', 'insightface'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


def test_info_refuses_what_is_no_safetensors_file_in_one_line(monkeypatch, capsys, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "old.ckpt")
    (tmp_path / "letter.txt").write_text("dear diary", encoding="utf-8")
    (tmp_path / "cut.safetensors").write_bytes(DIFFLORA_CHECKPOINT.read_bytes()[:100_000])
    for file, message in (
        (tmp_path / "old.ckpt", "a pickled checkpoint, which can run code: get the model as safetensors"),
        (tmp_path / "letter.txt", "not a safetensors file"),
        (tmp_path / "cut.safetensors", "truncated or damaged at 100000 bytes"),
        (tmp_path / "gone.safetensors", "There is no file"),
        (tmp_path, "is a folder, expected a safetensors file"),
    ):
        assert run(monkeypatch, "info", file) == 1
        output = capsys.readouterr()
        assert message in output.err
        assert len(output.err.splitlines()) == 1
        assert not output.out


def test_help_needs_no_subcommand(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    assert "personalize" in capsys.readouterr().out


def test_somebody_else_among_the_images_is_named(tmp_path, folder):
    """On stderr of the real command, where no test captures what is logged."""
    other = person(split_people("validation")[1])
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    Image.fromarray(draw(other, reference_scene(np.random.default_rng(4))).image).save(tmp_path / "d.png")
    words = ["personalize", tmp_path, "--out", tmp_path / "p.safetensors", "--checkpoint", DIFFLORA_CHECKPOINT]
    command_line = [sys.executable, "-m", "difflora_core.command", *map(str, words), "--steps", "1"]
    done = subprocess.run(command_line, capture_output=True, text=True, check=True, timeout=300)
    lines = [line.strip() for line in re.split(r"[\r\n]+", done.stderr) if line.strip() and "%|" not in line]
    assert len(lines) == 1, "more than the remark, beside progress bars"
    assert "d.png looks like somebody else: its face has a mean cosine of" in lines[0]
    assert "Loading" not in done.stderr
    assert "from 3 of 3 images" in done.stdout
