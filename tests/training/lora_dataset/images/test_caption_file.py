"""Captions beside images, in every encoding that editors write."""

import codecs

import pytest

from training.lora_dataset.images.caption_file import MAX_CAPTION_BYTES, read_caption

TEXT = "a photo of Zoë, 李小龍"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        "  a photo\r\nof Zoë,\t李小龍\n".encode(),
    ],
    ids=["utf-8", "utf-8 with mark", "PowerShell's >", "utf-16-be", "utf-32", "utf-32-be", "lines"],
)
def test_utf_8_and_what_a_mark_says_is_read(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_caption(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a photo of Zoë".encode("cp1252"), r"is not in UTF-8 \(byte 13\): save it as UTF-8"),
        ("李小龍".encode("gb18030"), "is not in UTF-8"),
        ("a photo".encode("utf-16-le"), "holds zero bytes, as UTF-16 without a mark does"),
        (codecs.BOM_UTF16_LE + b"a", r"is not in UTF-16-LE \(byte 2\)"),
    ],
    ids=["cp1252", "gb18030", "utf-16 without a mark", "half a character"],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.txt {message}"):
        read_caption(tmp_path / "a.txt")


def test_of_a_long_file_the_beginning_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" + "ë".encode() * MAX_CAPTION_BYTES)  # cut within a character
    assert read_caption(tmp_path / "a.txt") == "x" + "ë" * (MAX_CAPTION_BYTES // 2 - 1)
