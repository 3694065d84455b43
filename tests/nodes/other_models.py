"""Run by a test in its own process: what Apply LoRA does with a full-size SDXL LoRA on full-size models, as JSON.

    python other_models.py HOST BASE

The models are built without weights, on torch's meta device, so that Flux fits into any machine's memory.
"""

import asyncio
import json
import math

import torch
from host_process import load_pack, module  # first: it makes ComfyUI importable

import comfy.supported_models  # isort: skip
from comfy.ldm.flux.model import FluxParams  # isort: skip
from comfy.model_patcher import ModelPatcher  # isort: skip

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
SDXL = UNET | {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}
REFINER = SDXL | {
    "adm_in_channels": 2560,
    "model_channels": 384,
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth_middle": 4,
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "context_dim": 1280,
}
SD15 = UNET | {
    "adm_in_channels": None,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 8,
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 24,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    "pos_embed_max_size": 192,
    "pos_embed_scaling_factor": None,
    "num_patches": 36864,
}
FLUX: dict[str, object] = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
if "txt_ids_dims" in FluxParams.__dataclass_fields__:  # newer hosts
    FLUX["txt_ids_dims"] = []
MODELS = {"SDXL": SDXL, "SDXLRefiner": REFINER, "SD15": SD15, "SD3": SD3, "Flux": FLUX}


def model(name: str) -> ModelPatcher:
    """Build a MODEL of a published architecture, in full size, without weights."""
    config = getattr(comfy.supported_models, name)(dict(MODELS[name]))
    config.set_inference_dtype(torch.float16, None)
    device = torch.device("meta")
    return ModelPatcher(config.get_model({}, device=device), load_device=device, offload_device=device)


def packed(built: ModelPatcher) -> ModelPatcher:
    """Let layers name the shape of their packed bytes in the state_dict, as those of GGUF's loader do."""

    def pack(layer: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
        rows, width = layer.weight.shape
        state[f"{prefix}weight"] = torch.empty(rows, width // 32 * 34, dtype=torch.uint8, device="meta")

    for layer in built.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_state_dict_post_hook(pack)
    return built


def apply_result(built: ModelPatcher, strict: bool) -> str:
    """Return how many modules are patched, or the error."""
    try:
        patches, modules = lora_patches.fitting_patches(built, lora, strict=strict)
    except ValueError as error:
        return str(error)
    return f"{len(patches)}/{modules}"


def beside_layers(name: str) -> str:
    """Return what comes of a LoRA of one of the model's own layers that is applied beside it."""
    built = model(name)
    key = next(key for key in built.model.state_dict() if key.endswith((".to_q.weight", ".qkv.weight")))
    outer, inner = built.model.state_dict()[key].shape
    own = {"lora_up.weight": torch.ones(outer, 1), "lora_down.weight": torch.ones(1, inner)}
    named = {f"{key.removesuffix('.weight')}.{ending}": factor for ending, factor in own.items()}
    patches, _ = lora_patches.fitting_patches(built, named)
    try:
        module("nodes.patching.branches").apply_as_branches(built, patches, dict.fromkeys(patches, 1.0))
    except ValueError as error:
        return str(error)
    return "applied"


def enlarged(sizes: list[float], dtype: torch.dtype) -> str:
    """Return the shape to which a LoRA enlarges a layer that has two inputs less, or the error."""
    built = model("SDXL")
    key = next(key for key in built.model.state_dict() if key.endswith(".to_q.weight"))
    outer, inner = built.model.state_dict()[key].shape
    own = {"lora_up.weight": torch.ones(outer, 1), "lora_down.weight": torch.ones(1, inner + 2)}
    own["reshape_weight"] = torch.tensor([outer, inner, 0, 0], dtype=dtype)[: len(sizes)] + torch.tensor(sizes)
    named = {f"{key.removesuffix('.weight')}.{ending}": factor for ending, factor in own.items()}
    try:
        patches, _ = lora_patches.fitting_patches(built, named)
    except ValueError as error:
        return str(error)
    (patch,) = patches.values()
    return str([size - own for size, own in zip(patch.weights[5], (outer, inner), strict=True)])


def damaged(**shapes: tuple[int, ...]) -> str:
    """Return the error of a LoRA of one layer that has tensors of other shapes."""
    built = model("SDXL")
    key = next(key for key in built.model.state_dict() if key.endswith(".to_q.weight"))
    outer, inner = built.model.state_dict()[key].shape
    whole = {"lora_up.weight": (outer, 2), "lora_down.weight": (2, inner), "alpha": ()}
    own = {ending: torch.ones(shapes.get(ending.split(".")[0], shape)) for ending, shape in whole.items()}
    try:
        lora_patches.fitting_patches(built, {f"{key.removesuffix('weight')}{name}": own[name] for name in own})
    except ValueError as error:
        return str(error)
    return "no error"


asyncio.run(load_pack().comfy_entrypoint())
lora_patches, layouts, files = (
    module(name)
    for name in ("nodes.patching.lora_patches", "difflora_core.lora.layout", "difflora_core.lora.file_formats")
)
layout = layouts.LoRALayout.from_config(None, 4)
lora = files.lora_state_dict(torch.ones(layout.numel), layout)
results = {f"{name} {strict}": apply_result(model(name), strict) for name in MODELS for strict in (True, False)}
results["SDXL packed"] = apply_result(packed(model("SDXL")), strict=True)
results |= {f"{name} beside": beside_layers(name) for name in MODELS}
results["enlarged"] = [enlarged([0, 2], dtype) for dtype in (torch.int64, torch.float32)]
results["not enlarged"] = [enlarged(sizes, torch.float32) for sizes in ([0, 2.5], [0, math.nan], [2], [0, 2, 0])]
results["damaged"] = [damaged(alpha=(2,)), damaged(lora_up=()), damaged(lora_up=(4, 0), lora_down=(0, 4)), damaged()]
print(json.dumps(results))  # noqa: T201
