"""Run by a test in its own process: a LoRA on the positive side alone, beside two separately computed sides, as JSON.

    python positive_side.py HOST BASE COMPANION CHECKPOINT LORA

One Euler step from noise ends at the guided prediction itself: negative + cfg · (positive − negative).
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

companion, checkpoint, lora_file, *rest = sys.argv[3:]
sys.argv = sys.argv[:3]
sys.path.insert(0, str(Path(companion).parent))

import torch  # noqa: E402
from host_process import load_pack, module  # noqa: E402  # it makes ComfyUI importable

import comfy.samplers  # isort: skip  # noqa: E402
import comfy.sd  # isort: skip  # noqa: E402
import comfy.utils  # isort: skip  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # isort: skip  # noqa: E402
from companion.model import register  # isort: skip  # noqa: E402

CFG, SIGMAS = 3.0, torch.tensor([10.0, 0.0])


def load(**options: Any) -> tuple[Any, Any]:
    """Load the base model: MODEL and CLIP."""
    return comfy.sd.load_checkpoint_guess_config(checkpoint, output_vae=False, model_options=options)[:2]


def prompt(text: str, **extra: Any) -> Any:
    """Encode a prompt."""
    found = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return [[embedding, {**values, **extra}] for embedding, values in found]


def guided(patched: Any, positive: Any, negative: Any, cfg: float = CFG, batch: int = 1) -> torch.Tensor:
    """Predict x0 by one step of sampling."""
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    channels = patched.model.latent_format.latent_channels
    noise = torch.randn(batch, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, SIGMAS, disable_pbar=True, seed=0)


def apply(to: Any, side: str, strength: float = 1.0, output: float = 1.0) -> Any:
    """Apply the LoRA as the node does; output: strength in the output blocks."""
    node, clone = module("nodes.apply_lora"), to.clone()
    patches, _ = node.fitting_patches(to, lora)
    strengths = {key: strength * (output if node.block_group(key) == "output" else 1.0) for key in patches}
    ways = {"positive": node.apply_to_positive_side, "bypass": node.apply_as_branches, "both": node.add_patches}
    ways[side](clone, patches, strengths)
    return clone


def weights_kept(model: Any) -> bool:
    """Whether every weight is the same while a model with a LoRA beside the layers samples."""
    seen = []

    def look(executor: Any, *arguments: Any, **options: Any) -> Any:
        result = executor(*arguments, **options)
        seen.append(all(torch.equal(bits(weight), before[key]) for key, weight in model.model.state_dict().items()))
        return result

    before = {key: bits(weight).clone() for key, weight in model.model.state_dict().items()}
    beside = apply(model, "bypass")
    beside.add_wrapper_with_key("diffusion_model", "test", look)
    guided(beside, yes, no)
    return bool(seen) and all(seen)


def bits(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight's bytes."""
    return weight.contiguous().reshape(-1).view(torch.uint8)


def tiled(model: Any) -> Any:
    """Let a model compute both halves of the latent in one batch, one half after the other, as tiling nodes do."""

    def halves(function: Any, given: dict[str, Any]) -> torch.Tensor:
        parts = given["input"].chunk(2, dim=-1)
        options = {key: twice(value) for key, value in given["c"].items()}
        return torch.cat(function(torch.cat(parts), twice(given["timestep"]), **options).chunk(2), dim=-1)

    def twice(value: Any) -> Any:
        return torch.cat([value, value]) if isinstance(value, torch.Tensor) else value

    model = model.clone()
    model.set_model_unet_function_wrapper(halves)
    return model


def compiled(model: Any) -> Any:
    """Let a model be compiled when it runs, as core's TorchCompileModel does."""
    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    return model


def error(run: Callable[[], Any]) -> str:
    """Return the message of the ValueError of a call."""
    try:
        run()
    except ValueError as raised:
        return str(raised)
    return "no error"


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to how far guidance moves."""
    return float((found - expected).norm() / expected.norm())


def rounded() -> Any:
    """Load the base model in float32, each weight rounded to eight bits as in `eight_bit`."""
    model = load()[0]
    for key, weight in eight_bit.model.state_dict().items():
        comfy.utils.copy_to_param(model.model, key, weight.float())
    return model


register()
asyncio.run(load_pack().comfy_entrypoint())
model, clip = load()
lora = comfy.utils.load_torch_file(lora_file)
yes, no = prompt("photo of a person, smiling"), prompt("")
with torch.inference_mode():
    patched, beside = apply(model, "both"), apply(model, "positive")
    with_lora, without = guided(patched, yes, no, 1.0), guided(model, no, yes, 1.0)
    expected = without + CFG * (with_lora - without)
    half = apply(model, "both", 0.5, 0.2), apply(model, "positive", 0.5, 0.2)
    twice = apply(apply(model, "both", 0.3), "positive", 0.7)
    area = {"area": (16, 8, 0, 0), "strength": 1.0}
    left = prompt("photo of a person, sad", **area)
    area_with = guided(patched, yes + left, no, 1.0)
    area_without = guided(model, no + prompt("", **area), yes, 1.0)  # core adds the areas to the negative side
    eight_bit = load(dtype=torch.float8_e4m3fn)[0]
    found: dict[str, Any] = {
        "sides": difference(guided(beside, yes, no), expected),
        "both sides differ": difference(guided(patched, yes, no), expected),
        "no guidance": difference(guided(beside, yes, no, 1.0), with_lora),
        "strengths": difference(guided(half[1], yes, no, 1.0), guided(half[0], yes, no, 1.0)),
        "second LoRA": difference(guided(twice, yes, no, 1.0), with_lora),
        "areas": difference(guided(beside, yes + left, no), area_without + CFG * (area_with - area_without)),
        "batch": difference(
            guided(beside, yes, no, batch=3),
            (many := guided(model, no, yes, 1.0, 3)) + CFG * (guided(patched, yes, no, 1.0, 3) - many),
        ),
        "afterwards": difference(guided(model, yes, no, 1.0), guided(load()[0], yes, no, 1.0)),
        "fp8": difference(guided(apply(eight_bit, "positive"), yes, no), expected),
        "fp8 without": difference(guided(eight_bit, yes, no), expected),
        "bypass": difference(guided(apply(model, "bypass"), yes, no), guided(patched, yes, no)),
        "fp8 bypass": difference(
            guided(apply(eight_bit, "bypass"), yes, no), once := guided(apply(rounded(), "both"), yes, no)
        ),
        "weights kept": weights_kept(eight_bit),
        "fp8 patched": difference(guided(apply(eight_bit, "both"), yes, no), once),
        "compiled": difference(guided(compiled(beside), yes, no), guided(beside, yes, no)),
        "compiled before": difference(guided(apply(compiled(model), "positive"), yes, no), guided(beside, yes, no)),
        "compiled bypass": difference(guided(compiled(apply(model, "bypass")), yes, no), guided(patched, yes, no)),
        "tiles": error(lambda: guided(tiled(beside), yes, no)),
        "tiles, both sides": error(lambda: guided(tiled(patched), yes, no)),
    }
up = next(key for key in lora if key.endswith("lora_up.weight"))
lora |= {up.replace("lora_up.weight", "dora_scale"): torch.ones(len(lora[up]), 1)}
found["other kinds"] = error(lambda: apply(model, "positive"))
print(json.dumps(found))  # noqa: T201
