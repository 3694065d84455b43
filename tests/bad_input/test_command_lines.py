"""Command lines with something wrong: one line on stderr, exit code not 0, no traceback."""

import sys

import pytest

from training.__main__ import main

LAE = "stores: [store]\noutput: out\n"
DIFFLORA = "stores: [store]\nlae: lae\noutput: out\nencoders: {face: f, image: i}\nembeddings: {cache: [c]}\n"
FINETUNE = "network: a/net\nstores: [store]\ndataset: d.yaml\noutput: out\n"
DATASET = "workspace: work\nbase: base\ncollect: {source: people, path: faces}\n"


def run(monkeypatch, capsys, folder, words, settings=None):
    """The exit code and what was printed on stderr."""
    if settings is not None:
        (folder / "settings.yaml").write_text(settings, encoding="utf-8")
        words = [*words, "--config", str(folder / "settings.yaml")]
    monkeypatch.setattr(sys, "argv", ["training", *words])
    code = main()
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["train-lae"], LAE, "holds no store of LoRAs"),
        (["train-lae"], "stores: []\noutput: out\n", "no store of LoRAs is named"),
        (["train-lae"], LAE + "lae: {tokens: 0}\n", "lae.tokens"),
        (["train-lae"], "not settings", "holds a str"),
        (["train-lae", "--dry-run"], LAE, "holds no store of LoRAs"),
        (["train-lae", "--dry-run"], LAE + "layout: {unet: none.json}\n", "there is no"),
        (["train-difflora"], DIFFLORA, "There is no LAE"),
        (["train-difflora"], DIFFLORA + "dit: {name: huge}\n", "DiTs by name are"),
        (["embed"], DIFFLORA, "embed needs embeddings.dataset"),
        (["finetune"], FINETUNE, "There is no network"),
        (["finetune", "--dry-run"], FINETUNE, "There is no network"),
        (["dataset", "collect"], DATASET, "faces"),
        (["dataset", "filter"], DATASET, "run the stage `generate` first"),
        (["dataset", "preprocess"], DATASET, "filter"),
        (["dataset", "all"], DATASET, "faces"),
        (["dataset", "all", "--dry-run"], DATASET, "faces"),
        (["dataset", "import"], DATASET, "--from"),
        (["dataset", "import", "--from", "nowhere"], DATASET, "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, settings, message):
    code, error = run(monkeypatch, capsys, tmp_path, words, settings)
    lines = [line for line in error.splitlines() if "%|" not in line and line.strip()]
    assert code == 1
    assert message in lines[-1]
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["train-lae", "train-difflora", "embed", "finetune", "dataset status"])
def test_a_settings_file_that_is_missing_is_named(tmp_path, monkeypatch, capsys, command):
    words = [*command.split(), "--config", str(tmp_path / "none.yaml")]
    code, error = run(monkeypatch, capsys, tmp_path, words)
    assert code == 1
    assert error.strip() == f"FileNotFoundError: there is no configuration file {tmp_path / 'none.yaml'}"


@pytest.mark.parametrize(
    "words",
    [[], ["nothing"], ["train-lae"], ["train-lae", "--config"], ["dataset", "everything", "--config", "x"], ["--seed"]],
    ids=lambda words: " ".join(words) or "none",
)
def test_words_that_the_parser_does_not_know_end_with_its_usage(tmp_path, monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, capsys, tmp_path, words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_traceback_is_shown_on_request(tmp_path, monkeypatch, capsys):
    code, error = run(monkeypatch, capsys, tmp_path, ["--traceback", "train-lae"], LAE)
    assert code == 1
    assert "Traceback" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[1]", "expected a JSON object"), ('{"hidden_size": 3}', "no configuration of a U-Net")],
)
def test_a_layout_of_something_else_is_named(tmp_path, monkeypatch, capsys, content, message):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    settings = LAE + "layout: {unet: config.json}\n"
    code, error = run(monkeypatch, capsys, tmp_path, ["train-lae", "--dry-run"], settings)
    assert code == 1
    assert error.startswith(f"ValueError: layout.unet, {tmp_path / 'config.json'},")
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[1]", "expected a JSON object"), ('{"hidden_size": 3}', "no configuration of a U-Net")],
)
def test_a_base_model_of_something_else_is_named(tmp_path, monkeypatch, capsys, content, message):
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(content, encoding="utf-8")
    code, error = run(monkeypatch, capsys, tmp_path, ["dataset", "pack"], DATASET)
    assert code == 1
    assert error.startswith(f"ValueError: {tmp_path / 'base' / 'unet' / 'config.json'} ")
    assert message in error
