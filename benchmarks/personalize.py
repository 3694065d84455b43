"""Seconds from reference images to a LoRA, the share of each part, and the ratio to training a teacher.

    python -m benchmarks.personalize [--references 3] [--rounds 5]

The teacher is a held-out person's, trained alone on one thread, on this machine after the rest. Of both, loading the
networks is not counted. Needs a ComfyUI for the tokenizer.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from difflora_core.encoders.face_encoder import FaceEncoder
from difflora_core.encoders.image_encoder import ImageEncoder
from difflora_core.model import DiffLoRA
from miniature.comfyui.host import find_tokenizer
from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS
from miniature.personal.ship_held_out import seconds_per_teacher
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import reference_scene


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    who, rng = person(split_people("validation")[0]), np.random.default_rng(0)
    images = [draw(who, reference_scene(rng)).image for _ in range(arguments.references)]
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    faces = FaceEncoder.open(model.config.encoders.face, WEIGHTS / "insightface")
    tower = ImageEncoder.open(WEIGHTS / "clip_vision" / model.config.encoders.image)

    def seconds(work: Callable[[], torch.Tensor]) -> float:
        work()
        times = []
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return median(times)

    face, image = faces.encode(images), tower.encode(images)
    condition = model.mix(face, image).condition
    latents = model.sample(condition, generator=torch.Generator().manual_seed(0))
    parts = {
        "faces": seconds(lambda: faces.encode(images)),
        "CLIP vision": seconds(lambda: tower.encode(images)),
        "mixing": seconds(lambda: model.mix(face, image).condition),
        "sampling": seconds(lambda: model.sample(condition, generator=torch.Generator().manual_seed(0))),
        "decoding": seconds(lambda: model.decode(latents)),
    }
    total = sum(parts.values())
    for name, part in parts.items():
        print(f"{name:15s} {1000 * part:8.1f} ms  {part / total:5.0%}")
    teacher = seconds_per_teacher(WEIGHTS, find_tokenizer(), split_people("held_out")[0])
    print(
        f"{'together':15s} {1000 * total:8.1f} ms; a teacher took {teacher:.1f} s: {teacher / total:.0f} times as long"
    )


if __name__ == "__main__":
    main()
