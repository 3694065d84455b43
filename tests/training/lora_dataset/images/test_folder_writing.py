"""Folders of images: the one before or the whole new one, never a half of either."""

import pytest

from training.lora_dataset.images.folder_writing import replacing_folder


def content(folder):
    """The files of a folder, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_the_folder_before_is_seen_until_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "ann"
    for text in ("old", "new"):
        with replacing_folder(folder) as partial:
            (partial / "000.png").write_text(text, encoding="utf-8")
            (partial / f"{text}.txt").write_text(text, encoding="utf-8")
            if text == "new":
                assert content(folder) == {"000.png": "old", "old.txt": "old"}
    assert content(folder) == {"000.png": "new", "new.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_folder_before_is_there_and_nothing_else(tmp_path, error):
    folder = tmp_path / "ann"
    with replacing_folder(folder) as partial:
        (partial / "000.png").write_text("old", encoding="utf-8")

    def interrupted() -> None:
        with replacing_folder(folder) as partial:
            (partial / "000.png").write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        interrupted()
    assert content(folder) == {"000.png": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


def test_what_a_killed_run_left_is_no_part_of_the_new_folder(tmp_path):
    for kind in ("partial", "old"):
        (tmp_path / f".ann.{kind}").mkdir()
        (tmp_path / f".ann.{kind}" / "001.png").write_text("left", encoding="utf-8")
    with replacing_folder(tmp_path / "ann") as partial:
        (partial / "000.png").write_text("new", encoding="utf-8")
    assert content(tmp_path / "ann") == {"000.png": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]
