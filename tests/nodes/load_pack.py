"""Run by a test as a process of its own: load the pack as ComfyUI does and print what that brought along, as JSON."""

import asyncio
import json
import sys
import types

import torch
from host_process import ROOT, load_pack, module

CHECKPOINT = ROOT / "miniature" / "weights" / "difflora" / "miniature.safetensors"
before, state = set(sys.modules), torch.random.get_rng_state()
pack = load_pack()


async def schemas() -> list[str]:
    """Ids of the nodes; building a schema checks it."""
    extension = await pack.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


def memory() -> dict[str, bool]:
    """Whether the networks are known to ComfyUI's memory management, leave when asked, and come back as they were."""
    sockets, core = (module(name) for name in ("nodes.sockets", "difflora_core.model"))
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
    try:
        module("nodes.load_face_analysis").load_face_analysis(
            ROOT / "miniature" / "weights" / "insightface" / "models" / "miniature", "CPU"
        )
    except ImportError as error:
        return str(error)
    finally:
        del sys.modules["insightface"]
    return "no error"


def two_runtimes() -> list[str]:
    """What is logged when onnxruntime and onnxruntime-gpu are both installed and CUDA is not there, asked twice."""
    face_analysis = module("nodes.load_face_analysis")
    said: list[str] = []
    face_analysis.logging = types.SimpleNamespace(warning=said.append)
    face_analysis._installed = lambda _: True
    return [*(str(face_analysis.providers()) for _ in range(2)), *said]


found = {
    "nodes": asyncio.run(schemas()),
    "modules": sorted(set(sys.modules) - before),
    "random_state_unchanged": torch.equal(state, torch.random.get_rng_state()),
    "host_nodes_untouched": hasattr(sys.modules["nodes"], "KSampler"),
}
found["memory"] = memory()
found["without_insightface"] = without_insightface()
found["two_runtimes"] = two_runtimes()
found["with_gpu_runtime"] = module("nodes.load_face_analysis").how_to_install()
print(json.dumps(found))  # noqa: T201
