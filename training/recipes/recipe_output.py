"""One output folder, one recipe: a copy names the folder of its original until somebody changes that."""

import json
from pathlib import Path

from difflora_core.fields import read_json
from difflora_core.files import replacing

from .recipe import FILE, Recipe

OWNER = "recipe.json"
"""In the output folder: which recipe's results these are."""


def claim_output(recipe: Recipe) -> None:
    """Note that the results in the recipe's output folder are this recipe's, which its first step's folder names.

    Raises:
        ValueError: They are another recipe's, which is still there.
    """
    path, folder = recipe.output / OWNER, recipe.steps[0].settings.parent
    if path.exists():
        owner = Path(read_json(path.read_text("utf-8"), str(path)).get("recipe", folder))
        if owner == folder:
            return
        if (owner / FILE).is_file():
            raise ValueError(
                f"{recipe.output} holds the results of the recipe {owner}, and {folder} names the same folder, so that "
                f"each would go on with what the other made. In the files of {folder} replace {recipe.output.name}, "
                f"wherever it stands in a path, by another name; or delete {path} if these results are to be this "
                "recipe's"
            )
    recipe.output.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"recipe": str(folder)}, ensure_ascii=False), "utf-8")
