"""Names of items that are safe as file names on every system, from whatever folders, files and rows are called."""

import hashlib
import re
import unicodedata

MAX_READABLE_LENGTH = 40  # characters of the readable part
HASH_DIGITS = (
    12  # hexadecimal digits, 48 bits: among 100,000 people with one readable part, a clash has a chance of 2e-5
)
PLAIN = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
HASHED = re.compile(rf".*-[0-9a-f]{{{HASH_DIGITS}}}")
RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")  # Windows, with any ending


def item_name(key: str, readable: str | None = None) -> str:
    """Make a name for `key` that depends on the key alone, and is therefore the same in every run, for any other items.

    A key that is a plain lower-case file name is its own name. Any other becomes a readable part (made from `readable`,
    else from the key; "person" if nothing is left of it) and a hash of the key: "Ann B" and "ann_b" stay two. Both
    forms in which Unicode writes accents are one key: macOS and archives made there turn the one into the other.
    """
    key = unicodedata.normalize("NFC", key)
    plain = (
        PLAIN.fullmatch(key)
        and len(key) <= MAX_READABLE_LENGTH
        and not HASHED.fullmatch(key)
        and not RESERVED.fullmatch(key)
    )
    if plain and readable is None:
        return key
    text = unicodedata.normalize("NFKD", key if readable is None else readable)
    slug = re.sub(r"[^a-z0-9]+", "-", text.encode("ascii", "ignore").decode().lower()).strip("-")
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:HASH_DIGITS]
    return f"{slug[:MAX_READABLE_LENGTH].strip('-') or 'person'}-{digest}"
