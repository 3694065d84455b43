"""Memory and speed of a training step of the full-size autoencoders, with random LoRAs, on the present device.

    python -m benchmarks.lae_full_size                          # `conv` and `token` of the recipe sdxl-24gb
    python -m benchmarks.lae_full_size token --batch 4

The batch is small (1 by default) so that it runs on any machine, and each network runs in a process of its own. The
memory for the configured batch is extrapolated from the activations of two batch sizes.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peak_memory import peak_gib
from training.autoencoder.lae_dry_run import RandomLoRAs, batch_bytes
from training.autoencoder.settings import LAESettings
from training.autoencoder.train import new_lae
from training.autoencoder.weight_space_objective import LAEObjective
from training.engine.format import format_bytes
from training.engine.settings import read_settings
from training.engine.step_cost import measure_activations, measure_step

RECIPE = Path(__file__).parents[1] / "training" / "recipes" / "sdxl-24gb"
FILES = {"conv": RECIPE / "2_train_lae.yaml", "token": RECIPE / "variants" / "2_train_lae_token.yaml"}


def measure_network(name: str, batch: int, threads: int) -> None:
    """Measure one network."""
    torch.set_num_threads(threads)
    settings = read_settings(LAESettings, FILES[name])
    assert settings.layout is not None
    layout, configured = settings.layout.layout(), settings.training.batch
    loop = replace(settings.training.loop, accumulate=1)
    lae = new_lae(layout, settings.lae, 0)

    def loss(size: int) -> LAEObjective:
        return LAEObjective(lae, RandomLoRAs(layout.numel, size), replace(settings.training, batch=size))

    cost = measure_step(lae, loss(batch), loop, batch, batch_bytes(layout, batch))
    print(f"{name}: {layout.numel:,} values, {lae.compression_ratio:.1f} : 1, batch {batch}\n{cost}")
    print(f"             {cost.seconds:.3g} s/step, {threads} threads")
    activations = cost.memory["activations"]
    each = (measure_activations(lae, loss(2 * batch), loop) - activations) / batch
    fixed = sum(size for part, size in cost.memory.items() if part != "batch") - batch * each
    total = fixed + configured * (each + batch_bytes(layout, 1)["batch"])
    print(
        f"extrapolated to its batch of {configured}: {format_bytes(total)}; "
        f"{format_bytes(each)} of activations for each LoRA"
    )
    print(f"peak memory of this process {peak_gib():.2f} GiB\n")


def main() -> None:
    """Measure the named networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FILES), help=f"any of: {', '.join(FILES)}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in FILES]:
        parser.error(f"there is no network {unknown[0]!r}, expected any of {', '.join(FILES)}")
    if len(arguments.names) == 1:
        measure_network(arguments.names[0], arguments.batch, arguments.threads)
        return
    for name in arguments.names:
        sizes = ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
        subprocess.run([sys.executable, "-m", "benchmarks.lae_full_size", name, *sizes], check=True)


if __name__ == "__main__":
    main()
