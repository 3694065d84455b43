"""Run by a test as a process of its own: load the pack as ComfyUI does and print what that brought along, as JSON."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

HOST, BASE = sys.argv[1:]
sys.argv = [sys.argv[0]]
sys.path.insert(0, HOST)

from comfy.cli_args import args  # noqa: E402

args.cpu, args.base_directory = True, BASE

for name in ("utils.extra_config", "nodes", "server"):  # in the server's own order: its module `nodes` is there first
    importlib.import_module(name)

import torch  # noqa: E402

ROOT = Path(__file__).parents[2]
NAME = "/some/custom_nodes/ComfyUI-DiffLoRA_x_1"
before, state = set(sys.modules), torch.random.get_rng_state()
spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
assert spec is not None
assert spec.loader is not None
pack = importlib.util.module_from_spec(spec)
sys.modules[NAME] = pack
spec.loader.exec_module(pack)


async def schemas() -> list[str]:
    """Ids of the nodes; building a schema checks it."""
    extension = await pack.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


found = {
    "nodes": asyncio.run(schemas()),
    "modules": sorted(set(sys.modules) - before),
    "random_state_unchanged": torch.equal(state, torch.random.get_rng_state()),
    "host_nodes_untouched": hasattr(sys.modules["nodes"], "KSampler"),
}
print(json.dumps(found))  # noqa: T201
