"""Prompts by kind, numbered from 1 on in the file's order; numbers name images' files.

clothing:
  - a photo of a {person} in a red coat
view:
  - a photo of a {person} from the side
"""

from dataclasses import dataclass
from pathlib import Path

from training.engine.settings import read_settings

PERSON = "{person}"


@dataclass(frozen=True)
class PromptsByKind:
    """A file of prompts; kinds without prompts may be left out."""

    clothing: tuple[str, ...] = ()
    """What the person wears."""
    accessory: tuple[str, ...] = ()
    """What is worn or held beside it."""
    action: tuple[str, ...] = ()
    """What the person does."""
    attribute: tuple[str, ...] = ()
    """Expression, age, hair."""
    view: tuple[str, ...] = ()
    """From where the person is seen, and the light."""
    background: tuple[str, ...] = ()
    """Where the person is."""
    style: tuple[str, ...] = ()
    """How the image is made."""
    complex: tuple[str, ...] = ()
    """Several of these at once."""


@dataclass(frozen=True)
class Prompt:
    """One prompt."""

    number: int
    """From 1 on."""
    kind: str
    """A field of `PromptsByKind`."""
    template: str
    """With {person}."""

    def of(self, subject: str) -> str:
        """Return the prompt with words in place of {person}."""
        return self.template.replace(PERSON, subject)


def read_prompt_list(path: Path) -> list[Prompt]:
    """Read a file of prompts.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, has another kind, no prompt, the same twice, or one without {person}.
    """
    found = read_settings(PromptsByKind, path)
    pairs = [(kind, template) for kind, templates in vars(found).items() for template in templates]
    if not pairs:
        raise ValueError(f"{path} holds no prompts")
    templates = [template for _, template in pairs]
    for template in templates:
        if PERSON not in template:
            raise ValueError(f"{path}: {PERSON} is not in the prompt {template!r}: write it where the person is named")
        if templates.count(template) > 1:
            raise ValueError(f"{path}: the prompt {template!r} stands twice")
    return [Prompt(number, kind, template) for number, (kind, template) in enumerate(pairs, start=1)]
