"""The paper's sizes with random weights: one reference picture to a LoRA of SDXL, and a training step of the DiT.

    python -m benchmarks.paper_size [--device cuda] [--dtype bf16] [--steps 20] [--dit paper] [--batch 32]

Seconds are of interest on a GPU alone. The training step is also told as a share of what the device's matrix products
reach in the same dtype, in the same run; operations are counted by torch (two for a multiplication and an addition).

The networks are the published ones by their shapes: CLIP ViT-L/14; the recognizer an IResNet-50 on a face of 112 pixels
(buffalo_l's, 44 million parameters); the detector a plain convolutional network of 10 billion multiplications on 640
pixels, which is what buffalo_l's SCRFD takes. Both run in torch here, in onnxruntime in the pack.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.lae_full_size import CONFIGS
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.dit import CONFIGURATIONS
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.model import DiffLoRA, DiffLoRAConfig, EncoderNames
from training.autoencoder.command import LAESettings
from training.denoiser.train import DiffLoRATraining, denoising_loss, new_denoiser
from training.engine.loop import TrainConfig, generator_of
from training.engine.settings import read_settings
from training.engine.step_cost import measure
from training.people.conditions import Conditions, People

FACE, IMAGE, DETECTED, ALIGNED, SEEN = 512, 768, 640, 112, 224
MATRIX = {"cuda": 8192, "cpu": 1024}  # rows and columns of the products that the device is measured with
ROUNDS = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where and in what the networks run."""

    device: torch.device
    dtype: torch.dtype

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median time of a piece of work, after one run that is not counted."""
        times = []
        for _ in range(ROUNDS + 1):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - start)
        return median(times[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Unit(nn.Module):
    """IResNet's residual unit: (batch, inward, h, w) → (batch, outward, h / stride, w / stride)."""

    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inward),
            nn.Conv2d(inward, outward, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outward),
            nn.PReLU(outward),
            nn.Conv2d(outward, outward, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outward),
        )
        same = inward == outward and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inward, outward, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


def recognizer() -> nn.Module:
    """IResNet-50: pixels (batch, 3, 112, 112) → embeddings (batch, 512)."""
    stages, width = [], 64
    for depth, outward in ((3, 64), (4, 128), (14, 256), (3, 512)):
        stages += [Unit(width, outward, 2), *(Unit(outward, outward, 1) for _ in range(depth - 1))]
        width = outward
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    return nn.Sequential(*stem, *stages, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, FACE))


def detector() -> nn.Module:
    """As much work as SCRFD-10GF: pixels (batch, 3, 640, 640) → maps (batch, 224, 20, 20)."""
    layers: list[nn.Module] = []
    width = 3
    for outward, depth in ((28, 2), (56, 8), (88, 6), (88, 4), (224, 4)):
        layers += [nn.Conv2d(width, outward, 3, 2, 1), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Conv2d(outward, outward, 3, 1, 1), nn.ReLU()]
        width = outward
    return nn.Sequential(*layers)


def image_encoder() -> nn.Module:
    """CLIP ViT-L/14: pixels (batch, 3, 224, 224) → embeddings (batch, 768)."""
    shape = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        image_size=SEEN,
        projection_dim=IMAGE,
    )
    return CLIPVisionModelWithProjection(shape)


def model(name: str) -> DiffLoRA:
    """MIF, a DiT by name, and the LAE of the shipped SDXL configuration."""
    settings = read_settings(LAESettings, CONFIGS / "lae_sdxl_conv_24gb.yaml")
    assert settings.layout is not None
    lae = settings.lae
    dit = replace(CONFIGURATIONS[name], tokens=lae.tokens, latent_width=lae.width)
    mif = MIFConfig(FACE, IMAGE, dit.condition_width)
    return DiffLoRA(settings.layout.layout(), DiffLoRAConfig(lae, dit, mif, EncoderNames(), SamplingConfig()))


@torch.inference_mode()
def personalize(place: Place, name: str, steps: int) -> str:
    """Seconds from one picture to a LoRA, part by part."""
    networks = [network.eval().to(place.device, place.dtype) for network in (detector(), recognizer(), image_encoder())]
    find, recognize, see = networks
    difflora = model(name).eval().to(place.device, place.dtype)
    face, image = place.random(1, FACE), place.random(1, IMAGE)
    condition = difflora.mix(face, image)
    sampling = {"steps": steps, "guidance_scale": 2.0, "samples": 1}

    def sampled() -> Tensor:
        return difflora.sample(condition, generator=torch.Generator().manual_seed(0), **sampling)

    latents = sampled()
    works: dict[str, Callable[[], object]] = {
        "face detector": lambda: find(place.random(1, 3, DETECTED, DETECTED)),
        "face recognizer": lambda: recognize(place.random(1, 3, ALIGNED, ALIGNED)),
        "image encoder": lambda: see(pixel_values=place.random(1, 3, SEEN, SEEN)),
        "MIF": lambda: difflora.mix(face, image),
        f"{steps} steps, guided": sampled,
        "LAE's decoder": lambda: difflora.decode(latents),
    }
    took = {part: place.seconds(work) for part, work in works.items()}
    lines = [f"{part:18s} {1000 * value:9.1f} ms" for part, value in took.items()]
    return "\n".join([*lines, f"{'picture to LoRA':18s} {1000 * sum(took.values()):9.1f} ms"])


def training_step(place: Place, name: str, batch: int) -> str:
    """A step of MIF and DiT as `train-difflora` does it, beside the device's matrix products."""
    dit = CONFIGURATIONS[name]
    people = People(
        torch.randn(batch, dit.tokens, dit.latent_width),
        Conditions(torch.randn(batch, 2, FACE), torch.randn(batch, 2, IMAGE)),
    )
    precision = "bf16" if place.dtype == torch.bfloat16 else "no"
    loop = TrainConfig(1, 1e-4, mixed_precision=precision, device="auto" if place.device.type == "cuda" else "cpu")
    settings = DiffLoRATraining(replace(loop, unused_parameters=True), batch=batch, max_references=2)
    network = new_denoiser(dit, MIFConfig(FACE, IMAGE, dit.condition_width), settings).to(place.device)
    loss = denoising_loss(people, settings)
    with FlopCounterMode(display=False) as counter:
        loss(network, 0, generator_of(0, 0, 0))[0].backward()
    operations = counter.get_total_flops()
    network.zero_grad(set_to_none=True)
    cost = measure(network, loss, settings.loop, batch)
    side = MATRIX[place.device.type]
    one, other = place.random(side, side), place.random(side, side)
    best = 2 * side**3 / place.seconds(lambda: one @ other)
    reached = operations / cost.seconds
    return (
        f"training step of {batch} people {1000 * cost.seconds:.1f} ms, {reached / 1e12:.2f} of "
        f"{best / 1e12:.2f} TFLOP/s that products of {side} × {side} reach: {reached / best:.0%}\n{cost}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: bf16 on a GPU, else fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dit", choices=list(CONFIGURATIONS), default="paper")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    place = Place(device, DTYPES[arguments.dtype or ("bf16" if device.type == "cuda" else "fp32")])
    torch.set_num_threads(1)
    print(personalize(place, arguments.dit, arguments.steps), flush=True)
    print(training_step(place, arguments.dit, arguments.batch))


if __name__ == "__main__":
    main()
