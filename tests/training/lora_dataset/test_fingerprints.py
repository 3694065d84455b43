"""What a fingerprint is made of: contents and settings, not times."""

import os
from pathlib import Path

import pytest

from training.lora_dataset.config import DatasetConfig, VerifyConfig
from training.lora_dataset.fingerprints import differences, hash_file, hash_files, settings_of


def test_content_counts_and_time_does_not(tmp_path: Path) -> None:
    path, copy = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    copy.write_bytes(b"one")
    os.utime(copy, (1, 1))
    assert hash_file(path) == hash_file(copy)
    hash_file(path)
    before = path.stat()
    path.write_bytes(b"two")
    assert hash_file(path) != hash_file(copy)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_file(path) != hash_file(copy)


def test_a_missing_file_is_none_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert hash_files([tmp_path / "none"]) != hash_files([tmp_path / "empty"])
    with pytest.raises(ValueError, match="is not a regular file"):
        hash_file(tmp_path)


def test_what_differs_is_named(tmp_path: Path) -> None:
    before = settings_of(DatasetConfig(tmp_path, tmp_path), "verify.steps") | {"images": "a"}
    now = settings_of(DatasetConfig(tmp_path, tmp_path, verify=VerifyConfig(steps=9)), "verify.steps") | {"images": "b"}
    assert differences(before, now) == ["other images", "verify.steps was 30, is 9"]
    assert differences(before, before) == []
    assert differences({}, now) == ["it is not recorded what it was made from"]
