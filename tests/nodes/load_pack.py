"""Run by a test as a process of its own: load the pack as ComfyUI does and print what that brought along, as JSON."""

import asyncio
import importlib.util
import json
import sys
import types
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
CHECKPOINT = ROOT / "miniature" / "weights" / "difflora" / "miniature.safetensors"
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


def memory() -> dict[str, bool]:
    """Whether the networks are known to ComfyUI's memory management, leave when asked, and come back as they were."""
    sockets, core = (sys.modules[f"{NAME}.{module}"] for module in ("nodes.sockets", "difflora_core.model"))
    management = sys.modules["comfy.model_management"]
    loaded = sockets.LoadedDiffLoRA.wrap(core.DiffLoRA.load(CHECKPOINT), "miniature.safetensors")
    dit = loaded.difflora.config.dit
    latent = torch.ones(1, dit.tokens, dit.latent_width)

    def known() -> bool:
        return any(entry.model is loaded.patcher for entry in management.current_loaded_models)

    first = loaded.on_device().decode(latent)
    while_used = known()
    management.unload_all_models()
    after = known()
    return {"known": while_used, "left": not after, "same": torch.equal(first, loaded.on_device().decode(latent))}


def without_insightface() -> str:
    """What Load Face Analysis says where insightface is missing."""
    sys.modules["insightface"] = None  # type: ignore[assignment]
    module = sys.modules[f"{NAME}.nodes.face_analysis"]
    try:
        module.load_face_analysis(ROOT / "miniature" / "weights" / "insightface" / "models" / "miniature", "CPU")
    except ImportError as error:
        return str(error)
    finally:
        del sys.modules["insightface"]
    return "no error"


def two_runtimes() -> list[str]:
    """What is logged when onnxruntime and onnxruntime-gpu are both installed and CUDA is not there, asked twice."""
    module = sys.modules[f"{NAME}.nodes.face_analysis"]
    said: list[str] = []
    module.logging = types.SimpleNamespace(warning=said.append)
    module._installed = lambda _: True
    return [*(str(module.providers()) for _ in range(2)), *said]


found = {
    "nodes": asyncio.run(schemas()),
    "modules": sorted(set(sys.modules) - before),
    "random_state_unchanged": torch.equal(state, torch.random.get_rng_state()),
    "host_nodes_untouched": hasattr(sys.modules["nodes"], "KSampler"),
}
found["memory"] = memory()
found["without_insightface"] = without_insightface()
found["two_runtimes"] = two_runtimes()
found["with_gpu_runtime"] = sys.modules[f"{NAME}.nodes.face_analysis"].how_to_install()
print(json.dumps(found))  # noqa: T201
