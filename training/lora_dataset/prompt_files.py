"""Files of prompts: one per line; blank lines and lines that begin with # are left out."""

import re
from pathlib import Path

from .config import GenerateConfig
from .images.caption_file import read_text

PROMPTS = Path(__file__).parent / "prompts"
PLACEHOLDER = "{person}"
MAX_BYTES = 10_000_000
"""Of a file of prompts: far more than anybody writes."""


def read_prompts(settings: GenerateConfig, class_word: str) -> list[str]:
    """Read the prompts, with the class word in place of the placeholder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no prompts, or one that has neither the placeholder nor the class word, or is in
            another encoding than UTF-8 and has no byte-order mark.
    """
    path = settings.prompts or PROMPTS / "portraits.txt"
    prompts = _read_lines(path)
    if not prompts:
        raise ValueError(f"{path} holds no prompts: write one a line, with {PLACEHOLDER} for the class word")
    for prompt in prompts:
        if PLACEHOLDER not in prompt and not re.search(rf"\b{re.escape(class_word)}\b", prompt, re.IGNORECASE):
            raise ValueError(f"{path}: there is neither {PLACEHOLDER} nor {class_word!r} in the prompt {prompt!r}")
    return [prompt.replace(PLACEHOLDER, class_word) for prompt in prompts]


def read_negative(settings: GenerateConfig) -> str:
    """Read the negative prompt, its lines joined; a file without lines is the empty prompt.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is in another encoding, see `read_prompts`.
    """
    return ", ".join(_read_lines(settings.negative or PROMPTS / "negative.txt"))


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path}")
    lines = [line.strip() for line in read_text(path, MAX_BYTES).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
