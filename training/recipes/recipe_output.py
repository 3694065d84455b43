"""One output folder, one recipe: a copy names the folder of its original until somebody changes that."""

import json
from pathlib import Path

from difflora_core.fields import read_json_file
from difflora_core.files import replacing

from .recipe import FILE, TRAINERS, Recipe

OWNER = "recipe.json"
"""In the output folder: which recipe's results these are."""


def claim_output(recipe: Recipe) -> None:
    """Note that the results in the recipe's output folder are this recipe's.

    Raises:
        ValueError: They are another recipe's, which is still there, or a training's output lies among another's.
    """
    path = recipe.output / OWNER
    _check_owner(recipe, path)
    for step in recipe.steps:
        if step.command in TRAINERS:  # a dataset may serve several recipes
            for folder in step.files.writes[0].parents:
                _check_owner(recipe, folder / OWNER)
    recipe.output.mkdir(parents=True, exist_ok=True)
    if not path.exists() or _owner(path) != recipe.folder:
        with replacing(path) as partial:
            partial.write_text(json.dumps({"recipe": str(recipe.folder)}, ensure_ascii=False), "utf-8")


def _check_owner(recipe: Recipe, path: Path) -> None:
    if not path.is_file():
        return
    owner = _owner(path)
    if owner is not None and owner != recipe.folder and (owner / FILE).is_file():
        raise ValueError(
            f"{path.parent} holds the results of the recipe {owner}, and {recipe.folder} names the same folder, so "
            f"that each would go on with what the other made. In the files of {recipe.folder} replace "
            f"{path.parent.name}, wherever it stands in a path, by another name; or delete {path} if these results are "
            "to be this recipe's"
        )


def _owner(path: Path) -> Path | None:
    """Folder of the recipe whose results are in a folder; None if its note names none."""
    found = read_json_file(path).get("recipe")
    return Path(found) if isinstance(found, str) else None
