"""Images that another program has made: FOLDER/PERSON/NUMBER_SEED.png, where NUMBER is the prompt's, from 1 on."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..people_folders import EvaluatedPerson
from .method import ImageRequest

NAME = re.compile(r"0*(\d+)_0*(\d+)\.(png|jpe?g|webp)", re.IGNORECASE)


class GivenImages:
    """They are measured where they are; nothing is generated."""

    def __init__(self, folder: Path, references: int | None = None) -> None:
        self.folder, self.references = folder, references
        self.placement = f"images of another program, in {folder}: settings and words are its own"

    def files(self, person: EvaluatedPerson, requests: Sequence[ImageRequest]) -> list[Path]:
        """Return the images.

        Raises:
            FileNotFoundError: One is missing; it is named.
            ValueError: Two are of the same prompt and seed.
        """
        folder = self.folder / person.name
        found: dict[tuple[int, int], Path] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if match := NAME.fullmatch(path.name):
                key = int(match[1]), int(match[2])
                if key in found:
                    raise ValueError(f"{found[key]} and {path.name} are of the same prompt and seed: keep one")
                found[key] = path
        missing = [request for request in requests if (request.prompt.number, request.seed) not in found]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of {len(requests)} images, first {missing[0].file} "
                f"({missing[0].prompt.template!r}, seed {missing[0].seed})"
            )
        return [found[request.prompt.number, request.seed] for request in requests]
