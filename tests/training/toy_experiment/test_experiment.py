"""The toy experiment at a tiny size: what it compares, and what it writes."""

import json

import pytest
from PIL import Image

from training.toy_experiment.experiment import toy_experiment
from training.toy_experiment.report import COMPRESSORS, KINDS
from training.toy_experiment.tasks import ToySettings

TINY = ToySettings(tasks=12, held_out=4, samples=40, steps=30, autoencoder_steps=2)


def test_metrics_and_chart_are_written_and_the_same_again(tmp_path, capsys):
    first = toy_experiment(tmp_path, 1, TINY)
    assert json.loads((tmp_path / "toy_experiment.json").read_text()) == first
    assert {(entry["kind"], entry["compressor"]) for entry in first} == {(k, c) for k in KINDS for c in COMPRESSORS}
    assert "improvement preserved at equal latent" in capsys.readouterr().out
    image = Image.open(tmp_path / "toy_experiment.png")
    assert image.width > image.height > 500
    assert toy_experiment(tmp_path, 1, TINY) == first


def test_no_seeds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--seeds is at least 1, found 0"):
        toy_experiment(tmp_path, 0)


@pytest.mark.parametrize("out", ["letter.txt", "letter.txt/inside"])
def test_a_file_in_place_of_the_folder_is_refused_before_any_work(tmp_path, monkeypatch, out):
    monkeypatch.setattr("training.toy_experiment.experiment.run_seed", lambda *_: pytest.fail("it was run"))
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ValueError, match=r"--out is the folder of chart and metrics, found the file .*letter\.txt"):
        toy_experiment(tmp_path / out, 1, TINY)
