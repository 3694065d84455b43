"""The DiT: parameters, speed of its blocks padded, beside diffusers' and with shared conditions, shares of operations.

    python -m benchmarks.dit [--parameters] [--configurations miniature small paper] [--rounds 5] [--device cpu]
    python -m benchmarks.dit --padding [--people 128] [--compile] [--device cuda]

Ratios are measured in one run, in turns, from the shortest time of all rounds; on a CPU in process time, so that other
processes disturb little. `python -m benchmarks.personalize` has the shares of face encoder, image encoder, sampling and
decoding.

Diffusers' block is that of its DiTTransformer2DModel (`ada_norm_zero`), which embeds timestep and class in every block
and doesn't normalize queries and keys. Width, heads, head width, MLP and biases are equal.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from difflora_core.denoiser.config import CONFIGURATIONS, DiTConfig
from difflora_core.denoiser.dit import Block, DiT, parameter_count
from difflora_core.denoiser.padded_linear import PaddedLinear
from difflora_core.model import DiffLoRA
from miniature.paths import DIFFLORA_CHECKPOINT

SAMPLES = 4
"""Latents that share a condition."""
SHOWN = 8
"""Operations of the profile that are printed."""
PEOPLE = {"cuda": 128, "cpu": 2}
"""Latents of the training step with and without padding."""


class AlwaysPadded(PaddedLinear):
    """Pads widths that are not aligned, on a CPU and in float32 too."""

    def is_faster(self, x: Tensor) -> bool:
        """Say yes."""
        return True


class NeverPadded(PaddedLinear):
    """A plain linear layer."""

    def is_faster(self, x: Tensor) -> bool:
        """Say no."""
        return False


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", action="store_true", help="only print the sizes")
    parser.add_argument("--configurations", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--padding", action="store_true", help="only measure the padding")
    parser.add_argument("--people", type=int, help="latents of its training step; default: 128 on a GPU, else 2")
    parser.add_argument("--compile", action="store_true", help="measure the padding with compiled blocks too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    if not arguments.padding:
        print(sizes(), flush=True)
    if not arguments.parameters:
        people = arguments.people or PEOPLE[device.type]
        for name in arguments.configurations:
            print(padding(name, people, arguments.rounds, device, arguments.compile), flush=True)
    if not arguments.parameters and not arguments.padding:
        with torch.inference_mode():
            for name in arguments.configurations:
                print(compare_with_diffusers(name, arguments.rounds, device), flush=True)
            for name in arguments.configurations:
                print(shared_conditions(name, arguments.rounds, device), flush=True)
            print(operations())


def sizes() -> str:
    """The table of configurations with their exact number of parameters."""
    lines = ["| DiT | layers | width | heads × width | latent | parameters |", "|---|---|---|---|---|---|"]
    for name, c in CONFIGURATIONS.items():
        shape = f"{c.layers} | {c.width} | {c.heads} × {c.head_width} | {c.tokens} × {c.latent_width}"
        lines.append(f"| `{name}` | {shape} | {parameter_count(c):,} |")
    return "\n".join(lines)


def padding(name: str, people: int, rounds: int, device: torch.device, compiled: bool) -> str:
    """Time of a training step of one block with padded matrices as a share of that without, in fp32 and bf16."""
    config = CONFIGURATIONS[name]
    blocks = {kind.__name__: block_of(kind, config, device) for kind in (AlwaysPadded, NeverPadded)}
    if not any(isinstance(layer, PaddedLinear) and layer.unaligned for layer in blocks["AlwaysPadded"].modules()):
        return f"block of `{name}`: its widths are aligned, nothing is padded"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    x = torch.randn(people, config.tokens, config.width, device=device, requires_grad=True)
    condition = torch.randn(people, config.width, device=device)
    lines = []
    for how in ("eager", "compiled") if compiled else ("eager",):
        if how == "compiled":
            for block in blocks.values():
                block.compile()
        for dtype in (torch.float32, torch.bfloat16):
            works = {kind: training_step(block, x, condition, dtype) for kind, block in blocks.items()}
            padded, plain = shortest_seconds(works, rounds, device).values()
            lines.append(
                f"block of `{name}`, {people} × {config.tokens} tokens, forward and backward, {dtype}, {how}, on "
                f"{card}: padded {1000 * padded:.1f} ms, {padded / plain:.2f} of {1000 * plain:.1f} ms without padding"
            )
    return "\n".join(lines)


def block_of(linear: type[PaddedLinear], config: DiTConfig, device: torch.device) -> Block:
    """A block whose padded layers are of a class."""
    with patch("difflora_core.denoiser.dit.PaddedLinear", linear):
        return Block(config).to(device)


def training_step(block: Block, x: Tensor, condition: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Forward and backward pass of a block with float32 weights, in a dtype by autocast."""

    def step() -> None:
        autocast = nullcontext() if dtype == torch.float32 else torch.autocast(x.device.type, dtype)
        with autocast:
            out = block(x, condition)
        out.sum().backward()
        block.zero_grad(set_to_none=True)

    return step


def compare_with_diffusers(name: str, rounds: int, device: torch.device) -> str:
    """Our block's time as a share of that of diffusers' block of equal size."""
    config = CONFIGURATIONS[name]
    rows = 16 if name == "miniature" else 2
    ours, theirs = Block(config).to(device), diffusers_block(config).to(device)
    x = torch.randn(rows, config.tokens, config.width, device=device)
    condition = torch.randn(rows, config.width, device=device)
    steps, labels = torch.full((rows,), 500, device=device), torch.zeros(rows, dtype=torch.long, device=device)
    times = shortest_seconds(
        {"ours": lambda: ours(x, condition), "theirs": lambda: theirs(x, timestep=steps, class_labels=labels)},
        rounds,
        device,
    )
    return (
        f"block of `{name}`, {rows} × {config.tokens} tokens: {times['ours'] / times['theirs']:.2f} of diffusers' "
        f"ada_norm_zero ({size(ours):,} against {size(theirs):,} parameters)"
    )


def diffusers_block(config: DiTConfig) -> nn.Module:
    """Diffusers' transformer block of our block's width, heads, MLP and biases."""
    return BasicTransformerBlock(
        config.width,
        config.heads,
        config.head_width,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        ff_inner_dim=int(config.width * config.mlp_ratio),
    ).eval()


def shared_conditions(name: str, rounds: int, device: torch.device) -> str:
    """Time of a sampling step with modulations computed once per condition, as a share of once per latent."""
    config = replace(CONFIGURATIONS[name], layers=1)  # each further layer adds the same
    network = DiT(config).eval().to(device)
    latents = torch.randn(2 * SAMPLES, config.tokens, config.latent_width, device=device)
    conditions = torch.randn(2, config.condition_width, device=device)  # with and without, for guidance
    steps = torch.full((2,), 500, device=device)
    times = shortest_seconds(
        {
            "shared": lambda: network(latents, steps, conditions),
            "each": lambda: network(
                latents, steps.repeat_interleave(SAMPLES), conditions.repeat_interleave(SAMPLES, dim=0)
            ),
        },
        rounds,
        device,
    )
    return (
        f"`{name}`, one layer, 2 conditions × {SAMPLES} samples: modulations once per condition take "
        f"{times['shared'] / times['each']:.2f} of the time with modulations per latent"
    )


def operations() -> str:
    """Shares of operations in sampling one person's LoRA with the miniature's weights and recommended settings."""
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    condition = torch.randn(1, model.config.mif.width)
    model.sample(condition, generator=torch.Generator().manual_seed(0))
    with profile(activities=[ProfilerActivity.CPU]) as record:
        model.sample(condition, generator=torch.Generator().manual_seed(0))
    rows = sorted(record.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    shares = ", ".join(
        f"{row.key.removeprefix('aten::')} {row.self_cpu_time_total / total:.0%}" for row in rows[:SHOWN]
    )
    return f"sampling with the miniature's weights, by operation: {shares}"


def shortest_seconds(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """The shortest time of each function; they run in turns, after one run that is not counted."""

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = now()
            work()
            best[name] = min(best[name], now() - start)
    return best


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main()
