"""Run by a test in its own process: load the pack as ComfyUI does and print what that imported and did, as JSON."""

import asyncio
import json
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from host_process import ROOT, load_pack, module

CHECKPOINT = ROOT / "miniature" / "weights" / "difflora" / "miniature.safetensors"
before, state = set(sys.modules), torch.random.get_rng_state()
pack = load_pack()


async def schemas() -> list[str]:
    """Return the ids of the nodes; building a schema validates it."""
    extension = await pack.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


def memory() -> dict[str, bool]:
    """Check that ComfyUI's memory management knows the networks, unloads them, and loads them again unchanged."""
    sockets, core = (module(name) for name in ("nodes.sockets", "difflora_core.model"))
    management = sys.modules["comfy.model_management"]
    loaded = sockets.LoadedDiffLoRA.wrap(core.DiffLoRA.load(CHECKPOINT), "miniature.safetensors", "0" * 16)
    dit = loaded.difflora.config.dit
    latent = torch.ones(1, dit.tokens, dit.latent_width)

    def is_loaded() -> bool:
        return any(entry.model is loaded.patcher for entry in management.current_loaded_models)

    first = loaded.on_device().decode(latent)
    while_used = is_loaded()
    management.unload_all_models()
    after = is_loaded()
    return {"loaded": while_used, "unloaded": not after, "same": torch.equal(first, loaded.on_device().decode(latent))}


def without_insightface() -> str:
    """Return the error of Load Face Analysis if insightface is missing."""
    sys.modules["insightface"] = None  # type: ignore[assignment]
    try:
        module("nodes.loaders.load_face_analysis").load_face_analysis(
            ROOT / "miniature" / "weights" / "insightface" / "models" / "miniature", "CPU"
        )
    except ImportError as error:
        return str(error)
    finally:
        del sys.modules["insightface"]
    return "no error"


def two_runtimes() -> list[str]:
    """Return what is logged if onnxruntime and onnxruntime-gpu are both installed and CUDA is missing, in two calls."""
    face_analysis = module("nodes.loaders.load_face_analysis")
    logged: list[str] = []
    face_analysis.logging = types.SimpleNamespace(warning=logged.append)
    face_analysis._installed = lambda _: True
    return [*(str(face_analysis.providers()) for _ in range(2)), *logged]


def newer_host() -> dict[str, dict[str, Any]]:
    """Return what the nodes describe of themselves to a host whose schemas have further fields."""
    sockets = module("nodes.sockets")

    @dataclass
    class Schema(sockets.io.Schema):  # type: ignore[name-defined, misc]
        search_aliases: list[str] = field(default_factory=list)
        has_intermediate_output: bool = False

    sockets.io = types.SimpleNamespace(Schema=Schema)
    schemas = [node.define_schema() for node in module("nodes").NODES]
    return {
        schema.node_id: {
            "title": schema.display_name,
            "aliases": schema.search_aliases,
            "intermediate": schema.has_intermediate_output,
            "advanced": [declared.id for declared in schema.inputs if getattr(declared, "advanced", False)],
        }
        for schema in schemas
    }


found = {
    "nodes": asyncio.run(schemas()),
    "modules": sorted(set(sys.modules) - before),
    "random_state_unchanged": torch.equal(state, torch.random.get_rng_state()),
    "host_nodes_untouched": hasattr(sys.modules["nodes"], "KSampler"),
}
found["memory"] = memory()
found["without_insightface"] = without_insightface()
found["two_runtimes"] = two_runtimes()
found["newer_host"] = newer_host()
found["with_gpu_runtime"] = module("nodes.loaders.load_face_analysis").how_to_install()
print(json.dumps(found))  # noqa: T201
