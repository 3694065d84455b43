"""Captions beside images, and other files of text that people write: in UTF-8 or as a byte-order mark says."""

import codecs
from pathlib import Path

from difflora_core.images import printable

MAX_CAPTION_BYTES = 4000  # bytes that are read of a sidecar file
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte-order marks → encodings."""


def read_caption(path: Path) -> str:
    """Read a caption in one line: the first bytes of a file, see `read_text`.

    Raises:
        ValueError: It is in another encoding; the file is named.
    """
    return " ".join(read_text(path, MAX_CAPTION_BYTES).split())


def read_text(path: Path, most: int) -> str:
    """Read text in UTF-8, or as its byte-order mark says.

    Args:
        path: The file.
        most: Bytes that are read of a longer file.

    Raises:
        ValueError: It is in another encoding; the file is named.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    decoder = codecs.getincrementaldecoder(MARKS.get(mark, "utf-8"))()
    try:  # where the file goes on, its last character may be incomplete
        text = decoder.decode(content[len(mark) : most], final=len(content) <= most)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{printable(str(path))} is not in {MARKS.get(mark, 'utf-8').upper()} (byte {error.start + len(mark)}): "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{printable(str(path))} holds zero bytes, as UTF-16 without a mark does: save it as UTF-8")
    return text
