"""For processes that tests start: ComfyUI's modules as in its server, and the pack as ComfyUI loads it.

Imported by scripts that are started with HOST BASE; importing it makes ComfyUI importable.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
NAME = "/some/custom_nodes/ComfyUI-DiffLoRA_x_1"
"""ComfyUI names the package after its path; nothing inside may depend on it."""

host, base = sys.argv[1:]
sys.argv = [sys.argv[0]]
sys.path.insert(0, host)

from comfy.cli_args import args  # noqa: E402

args.cpu, args.base_directory = True, base

for name in ("utils.extra_config", "nodes", "server"):  # in the server's own order: its module `nodes` comes first
    importlib.import_module(name)


def load_pack() -> ModuleType:
    """Run the pack's __init__.py under the name that ComfyUI gives it."""
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = pack
    spec.loader.exec_module(pack)
    return pack


def module(name: str) -> ModuleType:
    """Return one of the pack's modules, for example nodes.sockets, after the pack has imported it."""
    return sys.modules[f"{NAME}.{name}"]
