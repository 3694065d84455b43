"""The denoiser: its exact sizes, its blocks beside diffusers' own, modulations ahead of sampling, and where time goes.

    python -m benchmarks.dit [--parameters] [--configurations miniature small paper] [--rounds 5] [--device cpu]

Ratios are taken in one run, in turns, from the quickest of all rounds; on a CPU from the time that this process itself
was running, so that neighbors disturb little. `python -m benchmarks.personalize` has the other parts' shares: face
encoder, image encoder, sampling, decoding.

Other than ours, diffusers' blocks don't normalize queries and keys. `ada_norm_zero`, the block of its
DiTTransformer2DModel, embeds timestep and class in every block; `ada_norm_single`, PixArt's, gets its modulations from
outside, as ours does while sampling. Width, heads, head width, MLP and biases are equal.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from difflora_core.denoiser.dit import CONFIGURATIONS, Block, DiT, DiTConfig, parameter_count
from difflora_core.model import DiffLoRA
from miniature.personal.held_out import CHECKPOINT

SAMPLERS = {"miniature": [(1, 16, 6), (2, 1, 20)], "small": [(2, 1, 8)], "paper": [(2, 1, 4)]}
"""Conditions (2 with guidance), samples of each, steps."""
SHOWN = 8  # operations of the profile


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", action="store_true", help="print the exact sizes and no more")
    parser.add_argument("--configurations", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(sizes(), flush=True)
    if not arguments.parameters:
        device = torch.device(arguments.device)
        with torch.inference_mode():
            for name in arguments.configurations:
                print(beside_diffusers(name, arguments.rounds, device), flush=True)
            for name in arguments.configurations:
                print(modulations(name, arguments.rounds, device), flush=True)
            print(operations())


def sizes() -> str:
    """The table of configurations with their exact number of parameters."""
    lines = ["| DiT | layers | width | heads × width | latent | parameters |", "|---|---|---|---|---|---|"]
    for name, c in CONFIGURATIONS.items():
        shape = f"{c.layers} | {c.width} | {c.heads} × {c.head_width} | {c.tokens} × {c.latent_width}"
        lines.append(f"| `{name}` | {shape} | {parameter_count(c):,} |")
    return "\n".join(lines)


def beside_diffusers(name: str, rounds: int, device: torch.device) -> str:
    """Our block's time as a share of diffusers' of equal size, with its modulation made inside and given."""
    config = CONFIGURATIONS[name]
    rows = 16 if name == "miniature" else 2
    ours = Block(config).to(device)
    zero, single = (their_block(config, kind).to(device) for kind in ("ada_norm_zero", "ada_norm_single"))
    x = torch.randn(rows, config.tokens, config.width, device=device)
    condition = torch.randn(rows, config.width, device=device)
    steps, labels = torch.full((rows,), 500, device=device), torch.zeros(rows, dtype=torch.long, device=device)
    given = ours.modulate(condition)
    took = seconds(
        {
            "ours": lambda: ours(x, condition),
            "ours, given": lambda: ours(x, given),
            "zero": lambda: zero(x, timestep=steps, class_labels=labels),
            "single": lambda: single(x, timestep=given.flatten(1)),
        },
        rounds,
        device,
    )
    return (
        f"block of `{name}`, {rows} × {config.tokens} tokens: {took['ours'] / took['zero']:.2f} of diffusers' "
        f"ada_norm_zero ({size(ours):,} against {size(zero):,} parameters); with modulations given "
        f"{took['ours, given'] / took['single']:.2f} of its ada_norm_single"
    )


def their_block(config: DiTConfig, kind: str) -> nn.Module:
    """Diffusers' transformer block of our block's width, heads, MLP and biases."""
    return BasicTransformerBlock(
        config.width,
        config.heads,
        config.head_width,
        norm_type=kind,
        num_embeds_ada_norm=1000,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        ff_inner_dim=int(config.width * config.mlp_ratio),
    ).eval()


def modulations(name: str, rounds: int, device: torch.device) -> str:
    """Sampling with modulations once a step, and for the whole schedule, as shares of making them in every block."""
    config = replace(CONFIGURATIONS[name], layers=1)  # each further layer adds the same
    network = DiT(config).eval().to(device)
    lines = []
    for conditions, samples, steps in SAMPLERS[name]:
        noisy = torch.randn(conditions * samples, config.tokens, config.latent_width, device=device)
        mixed = torch.randn(conditions, config.condition_width, device=device)
        schedule = torch.linspace(999, 0, steps, device=device).long()
        took = seconds(
            {
                "inside": lambda n=noisy, m=mixed, s=schedule: in_the_blocks(network, n, m, s),
                "step": lambda n=noisy, m=mixed, s=schedule: step_by_step(network, n, m, s),
                "ahead": lambda n=noisy, m=mixed, s=schedule: ahead(network, n, m, s),
            },
            rounds,
            device,
        )
        lines.append(
            f"`{name}`, one layer, {conditions} conditions × {samples} samples, {steps} steps: modulations once a step "
            f"{took['step'] / took['inside']:.2f}, ahead of all steps {took['ahead'] / took['inside']:.2f} of making "
            "them in the block for every sample"
        )
    return "\n".join(lines)


def in_the_blocks(network: DiT, noisy: Tensor, conditions: Tensor, schedule: Tensor) -> None:
    """Every block makes its own modulation for every row."""
    rows = conditions.repeat_interleave(len(noisy) // len(conditions), dim=0)
    for step in schedule:
        network(noisy, step.expand(len(noisy)), rows)


def step_by_step(network: DiT, noisy: Tensor, conditions: Tensor, schedule: Tensor) -> None:
    """All blocks' modulations once a step, for each condition."""
    copies = len(noisy) // len(conditions)
    for step in schedule:
        network.denoise(noisy, next(network.modulations(step[None], conditions, copies)))


def ahead(network: DiT, noisy: Tensor, conditions: Tensor, schedule: Tensor) -> None:
    """All blocks' modulations for all steps, for each condition: what `difflora_core.diffusion.sample` does."""
    for modulations in network.modulations(schedule, conditions, len(noisy) // len(conditions)):
        network.denoise(noisy, modulations)


def operations() -> str:
    """Where the time goes in sampling one person's LoRA with the miniature's weights and recommended settings."""
    model = DiffLoRA.load(CHECKPOINT)
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


def seconds(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """The shortest time of each work, all of them in turns; each runs once before that."""

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
