"""Changing values in a settings file leaves everything else as it is."""

from pathlib import Path

import pytest

from training.lora_dataset.config import load_config
from training.pilot.settings_file import change_settings
from training.recipes.recipe import FOLDER, SHIPPED


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", [name for name in SHIPPED if "teacher-free" not in name])
def test_only_the_changed_lines_differ(name, tmp_path):
    path = tmp_path / "1_dataset.yaml"
    path.write_bytes((FOLDER / name / path.name).read_bytes())
    before = lines(path)
    changed = change_settings(path, "dreambooth", {"steps": 123, "learning_rate": 1e-5}, load_config)
    assert changed["steps"][1] == 123
    differing = [(old, new) for old, new in zip(before, lines(path), strict=True) if old != new]
    assert [new.split(":")[0].strip() for _, new in differing] == ["steps", "learning_rate"]
    config = load_config(path).dreambooth
    assert (config.steps, config.learning_rate) == (123, 1e-5)


def test_a_key_that_was_not_there_stands_in_its_section(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("dreambooth:   # ours\n  steps: 5   # few\n\n# the store\npack:\n  validation: 0.5\n", "utf-8")
    assert change_settings(path, "dreambooth", {"rank": 8, "steps": 5}, lines) == {"rank": (None, 8)}
    assert lines(path) == [
        "dreambooth:   # ours",
        "  rank: 8",
        "  steps: 5   # few",
        "",
        "# the store",
        "pack:",
        "  validation: 0.5",
    ]


def test_indentation_and_flow_style_are_kept(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(
        "layout: {rank: 4, feed_forward: false}    # 560 modules\nother:\n    deep:\n        deeper: 1\n", "utf-8"
    )
    change_settings(path, "layout", {"rank": 8, "feed_forward": True}, lines)
    assert lines(path) == [
        "layout: {rank: 8, feed_forward: true}     # 560 modules",
        "other:",
        "    deep:",
        "        deeper: 1",
    ]


def test_nothing_to_change_and_no_section(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("# mine\na: 1\n", "utf-8")
    time = path.stat().st_mtime_ns
    assert change_settings(path, "dreambooth", {}, lines) == {}
    assert path.stat().st_mtime_ns == time
    change_settings(path, "dreambooth", {"rank": 2}, lines)
    assert lines(path) == ["# mine", "a: 1", "dreambooth:", "  rank: 2"]


def test_a_file_that_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "1_dataset.yaml"
    path.write_bytes((FOLDER / "miniature" / path.name).read_bytes())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="rank"):
        change_settings(path, "dreambooth", {"rank": 0}, load_config)
    assert path.read_bytes() == before
    path.write_text("dreambooth: 3\n", "utf-8")
    with pytest.raises(ValueError, match="dreambooth holds a int"):
        change_settings(path, "dreambooth", {"rank": 1}, load_config)
