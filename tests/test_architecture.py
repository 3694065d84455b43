"""What import-linter (pyproject.toml) can't check: imports as ComfyUI loads the pack, sizes of files and folders."""

import ast
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("difflora_core", "nodes", "training", "miniature", "benchmarks")
INSIDE_COMFYUI = ("difflora_core", "nodes")
SCRATCH = {ROOT / "miniature" / "build"}
FILES = [
    path
    for folder in (*PACKAGES, "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if SCRATCH.isdisjoint(path.parents)
]
MAX_LINES = 300
MAX_MODULES = 14
CUSTOMARY_NAMES = {"__init__", "__main__", "command", "config", "data", "model", "settings", "train"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, absolute dotted name as seen from the repository root, whether it was written relatively)."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            # `from .. import x` names the module only after `import`.
            names = [".".join(base)] if base else [alias.name for alias in node.names]
            yield from ((node.lineno, imported, True) for imported in names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "", False


@pytest.mark.parametrize("path", [path for path in FILES if name(path).startswith(INSIDE_COMFYUI)], ids=name)
def test_imports_under_comfyui(path: Path) -> None:
    """Under ComfyUI the pack is a package of unknown name: an absolute import would load a second copy."""
    own = path.relative_to(ROOT).parts[0]
    for line, imported, relative in imports(path):
        top = imported.split(".")[0]
        where = f"{name(path)}:{line} imports {imported}"
        assert relative or top not in PACKAGES, f"{where} by its absolute name; write it relatively"
        assert not relative or top in {own, "difflora_core"}, f"{where}, but {own} may import only difflora_core"


def test_pack_is_importable_without_comfyui() -> None:
    spec = importlib.util.spec_from_file_location(
        "pack_of_any_name", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    before = set(sys.modules)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.comfy_entrypoint)
    assert not {name for name in set(sys.modules) - before if name.startswith(("comfy", "torch", "pack_of_any_name."))}


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert lengths, "no Python file found"
    assert not {file: length for file, length in lengths.items() if length > MAX_LINES}


def test_folders_are_small() -> None:
    modules = Counter(name(path.parent) for path in FILES)
    assert not {folder: count for folder, count in modules.items() if count > MAX_MODULES}


@pytest.mark.parametrize("package", PACKAGES)
def test_module_names_are_unique(package: str) -> None:
    names = Counter(path.stem for path in FILES if name(path).startswith(f"{package}/"))
    assert names, f"{package}/ has no module"
    assert not {module for module, count in names.items() if count > 1} - CUSTOMARY_NAMES


PACKAGE_FILES = [path for path in FILES if path.name == "__init__.py" and not name(path).startswith("tests/")]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name)
def test_packages_list_their_modules(path: Path) -> None:
    """The docstring of a package names every module and package in it; a command's `__main__` needs no mention."""
    modules = {file.relative_to(path.parent).parts[0].removesuffix(".py") for file in path.parent.rglob("*.py")}
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert not modules - set(re.findall(r"\w+", text)) - {"__init__", "__main__"}
