"""Seconds from one reference image to a LoRA of SDXL, and of a training step of the DiT, at the paper's sizes.

    python -m benchmarks.paper_size [--device cuda] [--dtype bf16] [--steps 20] [--dit paper] [--batch 32]

The weights are random; seconds are of interest on a GPU only. The training step is also given as a share of the speed
of the device's matrix products in the same dtype and run; operations are counted by torch (two for a multiplication and
an addition). It is measured twice: with batches that a worker thread draws ahead, and with drawing in the step.

The networks have the shapes of the published ones: CLIP ViT-L/14; the recognizer an IResNet-50 on a face of 112 pixels
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

from benchmarks.lae_full_size import FILES
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import CONFIGURATIONS, MIFConfig, SamplingConfig
from difflora_core.model import DiffLoRA
from difflora_core.seeds import generator_for
from training.autoencoder.settings import LAESettings
from training.denoiser.config import DiffLoRATraining
from training.denoiser.latent_space_objective import LatentObjective
from training.denoiser.train import new_denoiser
from training.engine.batches_ahead import LossFunction
from training.engine.config import TrainConfig
from training.engine.settings import read_settings
from training.engine.step_cost import measure_step
from training.people.conditions import Conditions, People

FACE, IMAGE = 512, 768
"""Widths of the embeddings."""
DETECTOR_SIZE, RECOGNIZER_SIZE, CLIP_SIZE = 640, 112, 224
"""Sides of the input images in pixels."""
MATRIX = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrix products that the device is measured with."""
ROUNDS = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """Where the networks run, and with what precision."""

    device: torch.device
    """Where they run."""
    dtype: torch.dtype
    """Of weights and inputs."""

    def random(self, *shape: int) -> Tensor:
        """A random tensor."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median time of a function, after one run that is not counted."""
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


class ResidualUnit(nn.Module):
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
        """(batch, inward, h, w) → (batch, outward, h / stride, w / stride)."""
        return self.body(x) + self.skip(x)


def recognizer() -> nn.Module:
    """IResNet-50: pixels (batch, 3, 112, 112) → embeddings (batch, 512)."""
    stages, width = [], 64
    for depth, outward in ((3, 64), (4, 128), (14, 256), (3, 512)):
        stages += [ResidualUnit(width, outward, 2), *(ResidualUnit(outward, outward, 1) for _ in range(depth - 1))]
        width = outward
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    return nn.Sequential(*stem, *stages, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, FACE))


def detector() -> nn.Module:
    """As many operations as SCRFD-10GF: pixels (batch, 3, 640, 640) → maps (batch, 224, 20, 20)."""
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
        image_size=CLIP_SIZE,
        projection_dim=IMAGE,
    )
    return CLIPVisionModelWithProjection(shape)


def model(name: str) -> DiffLoRA:
    """MIF, a DiT by name, and the LAE of the recipe sdxl-24gb."""
    settings = read_settings(LAESettings, FILES["conv"])
    assert settings.layout is not None
    lae = settings.lae
    dit = replace(CONFIGURATIONS[name], tokens=lae.tokens, latent_width=lae.width)
    mif = MIFConfig(FACE, IMAGE, dit.condition_width)
    return DiffLoRA(settings.layout.layout(), DiffLoRAConfig(lae, dit, mif, EncoderNames(), SamplingConfig()))


@torch.inference_mode()
def personalize(setting: Setting, name: str, steps: int) -> str:
    """Measure the seconds from one image to a LoRA, part by part."""
    networks = [
        network.eval().to(setting.device, setting.dtype) for network in (detector(), recognizer(), image_encoder())
    ]
    detect, recognize, encode = networks
    difflora = model(name).eval().to(setting.device, setting.dtype)
    face, image = setting.random(1, FACE), setting.random(1, IMAGE)
    condition = difflora.mix(face, image).condition
    sampling = {"steps": steps, "guidance_scale": 2.0, "samples": 1}

    def sampled() -> Tensor:
        return difflora.sample(condition, generator=torch.Generator().manual_seed(0), **sampling)

    latents = sampled()
    works: dict[str, Callable[[], object]] = {
        "face detector": lambda: detect(setting.random(1, 3, DETECTOR_SIZE, DETECTOR_SIZE)),
        "face recognizer": lambda: recognize(setting.random(1, 3, RECOGNIZER_SIZE, RECOGNIZER_SIZE)),
        "image encoder": lambda: encode(pixel_values=setting.random(1, 3, CLIP_SIZE, CLIP_SIZE)),
        "MIF": lambda: difflora.mix(face, image),
        f"{steps} steps, guided": sampled,
        "LAE's decoder": lambda: difflora.decode(latents),
    }
    times = {part: setting.seconds(work) for part, work in works.items()}
    lines = [f"{part:18s} {1000 * value:9.1f} ms" for part, value in times.items()]
    return "\n".join([*lines, f"{'image to LoRA':18s} {1000 * sum(times.values()):9.1f} ms"])


def training_step(setting: Setting, name: str, batch: int) -> str:
    """Measure a training step of MIF and DiT as in `train-difflora`, and the device's matrix products."""
    dit = CONFIGURATIONS[name]
    people = People(
        torch.randn(batch, dit.tokens, dit.latent_width),
        Conditions(torch.randn(batch, 2, FACE), torch.randn(batch, 2, IMAGE)),
    )
    precision = "bf16" if setting.dtype == torch.bfloat16 else "no"
    loop = TrainConfig(
        1, 1e-4, warmup=0, mixed_precision=precision, device="auto" if setting.device.type == "cuda" else "cpu"
    )
    settings = DiffLoRATraining(replace(loop, unused_parameters=True), batch=batch, max_references=2)
    network = new_denoiser(dit, MIFConfig(FACE, IMAGE, dit.condition_width), settings).to(setting.device)
    loss = LatentObjective(people, settings)
    with FlopCounterMode(display=False) as counter:
        loss(network, 0, generator_for(0, 0, 0))[0].backward()
    operations = counter.get_total_flops()
    network.zero_grad(set_to_none=True)
    cost = measure_step(network, loss, settings.loop, batch)
    in_step = measure_step(network, without_drawing_ahead(loss), settings.loop, batch).seconds
    side = MATRIX[setting.device.type]
    one, other = setting.random(side, side), setting.random(side, side)
    best = 2 * side**3 / setting.seconds(lambda: one @ other)
    reached = operations / cost.seconds
    return (
        f"training step of {batch} people {1000 * cost.seconds:.1f} ms, {reached / 1e12:.2f} of "
        f"{best / 1e12:.2f} TFLOP/s that products of {side} × {side} reach: {reached / best:.0%}\n"
        f"drawing a batch takes the host {1000 * drawing_seconds(loss):.1f} ms; with batches drawn ahead a step takes "
        f"{cost.seconds / in_step:.2f} of the time with drawing in it\n{cost}"
    )


def without_drawing_ahead(loss: LatentObjective) -> LossFunction:
    """Hide from the loop that the loss can draw batches ahead: each is then drawn within its step."""

    def draw_and_measure(module: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return loss(module, step, generator)

    return draw_and_measure


def drawing_seconds(loss: LatentObjective) -> float:
    """Shortest processor time in which this thread draws a batch."""
    times = []
    for step in range(2 * ROUNDS):
        start = time.thread_time()
        loss.draw(step, generator_for(0, step, 0))
        times.append(time.thread_time() - start)
    return min(times)


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
    setting = Setting(device, DTYPES[arguments.dtype or ("bf16" if device.type == "cuda" else "fp32")])
    torch.set_num_threads(1)
    print(personalize(setting, arguments.dit, arguments.steps), flush=True)
    print(training_step(setting, arguments.dit, arguments.batch))


if __name__ == "__main__":
    main()
