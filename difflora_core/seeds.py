"""Seeds for random number generators, derived from what a draw is for."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """Derive a seed from what a draw is for, for example `derive_seed(seed, "noise", step, person)`.

    The same on every machine and in every version of Python, and as good as independent for parts that differ in
    anything: SHA-256 over the parts, of which an integer and its decimal string are different parts.

    Args:
        parts: Integers and strings, in an order that the caller keeps.

    Returns:
        An integer in 0 … 2⁶³ − 1, which `torch.Generator.manual_seed` takes.
    """
    text = "\n".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """Make a generator on the CPU, seeded by `derive_seed`: draws are the same on every device."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def describe_seed(generator: torch.Generator) -> int | str:
    """Return the seed from which a generator's next draws can be made again, or say that there is none.

    Args:
        generator: As it is before the draws. Another device's draws are others, so that those have to be told apart.
    """
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    if not torch.equal(fresh.get_state(), generator.get_state()):
        return "none: the generator had been used before"
    on_cpu = generator.device.type == "cpu"
    return generator.initial_seed() if on_cpu else f"{generator.initial_seed()} on {generator.device.type}"
