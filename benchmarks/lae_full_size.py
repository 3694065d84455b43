"""A few training steps of the full-size autoencoders with random LoRAs, on the present device.

python -m benchmarks.lae_full_size                          # training/configs/lae_sdxl_*_24gb.yaml
python -m benchmarks.lae_full_size lae_sdxl_token_24gb --batch 4

The batch is small (1 unless asked for) so that it runs on any machine, each file in a process of its own. What the
configured batch would take is worked out from the activations of two batches. The file for four GPUs has the network
of the file for one.
"""

import argparse
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from training.autoencoder.command import LAESettings, RandomLoRAs, lora_copies
from training.autoencoder.train import LAEObjective, Reconstruct, new_lae
from training.engine.settings import read_settings
from training.engine.step_cost import in_bytes, kept_for_backward, measure

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


def one(name: str, batch: int, threads: int) -> None:
    """Measure one file."""
    torch.set_num_threads(threads)
    settings = read_settings(LAESettings, CONFIGS / f"{name}.yaml")
    assert settings.layout is not None
    layout, asked = settings.layout.layout(), settings.training.batch
    loop = replace(settings.training.loop, accumulate=1)
    lae = new_lae(layout, settings.lae, 0)

    def loss(size: int) -> LAEObjective:
        return LAEObjective(lae, RandomLoRAs(layout.numel, size), replace(settings.training, batch=size))

    cost = measure(Reconstruct(lae), loss(batch), loop, batch, lora_copies(layout, batch))
    print(f"{name}: {layout.numel:,} numbers, {lae.compression_ratio:.1f} : 1, batch {batch}\n{cost}")
    print(f"             {cost.seconds:.3g} s/step, {threads} threads")
    activations = cost.memory["activations"]
    each = (kept_for_backward(Reconstruct(lae), loss(2 * batch), loop) - activations) / batch
    fixed = sum(size for part, size in cost.memory.items() if part != "batch") - batch * each
    total = fixed + asked * (each + lora_copies(layout, 1)["batch"])
    print(f"by arithmetic, {in_bytes(total)} at its batch of {asked}: {in_bytes(each)} of activations for each LoRA")
    if sys.platform != "win32":
        print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")


def main() -> None:
    """Measure the files that are asked for."""
    parser = argparse.ArgumentParser(description="A few training steps of the full-size autoencoders.")
    everything = sorted(path.stem for path in CONFIGS.glob("lae_sdxl_*_24gb.yaml"))
    parser.add_argument("names", nargs="*", default=everything, help="of files in training/configs, default all")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if len(arguments.names) == 1:
        one(arguments.names[0], arguments.batch, arguments.threads)
        return
    for name in arguments.names:
        sizes = ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
        subprocess.run([sys.executable, "-m", "benchmarks.lae_full_size", name, *sizes], check=True)


if __name__ == "__main__":
    main()
