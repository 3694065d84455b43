"""The command that makes a LoRA file from pictures, on the miniature's weights."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.command import add_arguments, picture_files, run
from difflora_core.files import read_tensors
from difflora_core.lora.file_formats import read_lora
from difflora_core.model import HEADER, DiffLoRA
from miniature.personal.held_out import CHECKPOINT
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person, reference_scene, split_people
from training.__main__ import COMMANDS, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three pictures of a validation person, one of nobody, one that is none, and a letter."""
    torch.set_num_threads(1)
    made, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    who = person(split_people("validation")[0])
    for name in ("a.png", "b.PNG", "c.png"):
        Image.fromarray(draw(who, reference_scene(rng)).image).save(made / name, format="PNG")
    Image.fromarray(draw_empty(reference_scene(rng))).save(made / "nobody.png")
    (made / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    (made / "letter.txt").write_text("dear diary")
    return made


def personalize(*words: object) -> None:
    parser = ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in ("--checkpoint", CHECKPOINT, "--device", "cpu", *words)])
    arguments.run(arguments)


def test_a_folder_becomes_the_lora_that_the_library_makes(tmp_path, folder, capsys):
    out = tmp_path / "made" / "person.safetensors"
    personalize(
        folder, "--out", out, "--steps", 2, "--samples", 2, "--guidance", 1.5, "--latent-scale", 1.1, "--seed", 3
    )
    model = DiffLoRA.load(CHECKPOINT)
    pictures = [Image.open(folder / name) for name in ("a.png", "b.PNG", "c.png")]
    settings = {"steps": 2, "samples": 2, "guidance_scale": 1.5, "latent_scale": 1.1}
    expected = model.personalize(pictures, generator=torch.Generator().manual_seed(3), **settings)
    torch.testing.assert_close(read_lora(out, model.layout), expected.flat)
    assert json.loads(read_tensors(out)[1][HEADER]) == {"references": 3, "seed": 3, **settings}
    told = capsys.readouterr()
    assert "from 3 of 5 pictures" in told.out
    assert "no face" in told.err
    assert "nobody.png" in told.err
    assert "unreadable" in told.err
    assert "broken.jpg" in told.err
    assert not list(out.parent.glob(".*"))


def test_single_files_and_diffusers_names(tmp_path, folder):
    out = tmp_path / "person.safetensors"
    personalize(folder / "a.png", folder / "c.png", "--out", out, "--steps", 1, "--format", "diffusers")
    tensors, metadata = read_tensors(out)
    assert all(name.startswith("unet.") for name in tensors)
    assert json.loads(metadata[HEADER])["references"] == 2


@pytest.mark.parametrize("names", [["nobody.png"], ["broken.jpg", "nobody.png"]])
def test_without_a_usable_picture_nothing_is_written(tmp_path, folder, names):
    out = tmp_path / "person.safetensors"
    with pytest.raises(ValueError, match=f"none of the {len(names)} pictures can be used; the first: .*{names[0]}"):
        personalize(*(folder / name for name in names), "--out", out)
    assert not list(tmp_path.iterdir())


def test_impossible_settings_are_refused_before_any_picture_is_read(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("difflora_core.command.embed", lambda *_: pytest.fail("pictures were read"))
    for setting in (
        ("--steps", 0),
        ("--steps", 10_000),
        ("--guidance", -1),
        ("--samples", 0),
        ("--latent-scale", "nan"),
    ):
        with pytest.raises(ValueError, match=f"found {setting[1]}"):
            personalize(folder, "--out", tmp_path / "person.safetensors", *setting)


@pytest.mark.parametrize("out", [".", "person.ckpt"])
def test_what_is_no_file_for_a_lora_is_refused(tmp_path, folder, out):
    with pytest.raises(ValueError, match=r"ending in \.safetensors; found"):
        personalize(folder, "--out", tmp_path / out)


def test_places_without_pictures_are_named(tmp_path):
    (tmp_path / "inside").mkdir()
    with pytest.raises(ValueError, match="holds no pictures: expected files of jpg"):
        picture_files([tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        picture_files([tmp_path / "nowhere"])


def test_a_gpu_that_is_not_there_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU"):
        personalize(folder, "--out", tmp_path / "person.safetensors", "--device", "cuda:1")


def test_it_is_a_command_whose_errors_are_one_line(tmp_path, folder, monkeypatch, capsys):
    assert COMMANDS["personalize"][0] == "difflora_core.command"
    words = ["personalize", folder, "--out", tmp_path / "p.safetensors", "--checkpoint", folder / "a.png"]
    monkeypatch.setattr(sys, "argv", ["training", *map(str, words)])
    assert main() == 1
    told = capsys.readouterr().err
    assert "not a safetensors file" in told
    assert "Traceback" not in told
    assert run.__module__ == "difflora_core.command"
