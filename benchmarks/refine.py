"""Time of the node Refine LoRA with gradient checkpointing, as a ratio to the time without.

    python -m benchmarks.refine [--steps 20] [--rounds 3]

Both run in turns in one ComfyUI.
"""

import argparse
import json
from statistics import median

import numpy as np
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.host import Host, prepare_base
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import person
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client

WORKFLOW = ROOT / "workflows" / "1-Portrait-from-one-picture.json"


def seconds(client: Client, prompt: ApiPrompt, steps: int, checkpointing: bool, seed: int) -> float:
    """Seconds of one run, in which everything before Refine LoRA is cached."""
    base = {name: prompt.output("Load Checkpoint", slot) for slot, name in enumerate(("model", "clip", "vae"))}
    settings = {"prompt": "a portrait of a person", "learning_rate": 1e-3, "batch_size": 4, "seed": seed}
    links = {"lora": prompt.output("Decode LoRA"), "images": prompt.output("Your picture")}
    prompt = prompt.copy()
    prompt.add(
        "Refine", "DiffLoRARefine", **base, **settings, **links, steps=steps, gradient_checkpointing=checkpointing
    )
    prompt.add("Curve", "PreviewImage", images=prompt.output("Refine", 1))
    return client.run(prompt.only("Curve").prompt).seconds


def main() -> None:
    """Measure in pairs and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with Host(prepare_base(ROOT / "output" / "host"), arguments=("--cache-lru", "100")) as host:
        client = Client(host.url)
        prompt = ApiPrompt.load(WORKFLOW, client.object_info())
        image = draw(person(7000), reference_scene(np.random.default_rng(0))).image
        prompt.set("Your picture", image=client.upload(Image.fromarray(image), "benchmark.png"))
        seconds(client, prompt, 1, False, 0)  # loads the networks
        plain, saving = [], []
        for seed in range(1, arguments.rounds + 1):
            plain.append(seconds(client, prompt, arguments.steps, False, seed))
            saving.append(seconds(client, prompt, arguments.steps, True, seed))
    ratio = median(a / b for a, b in zip(saving, plain, strict=True))
    figures = {"plain": plain, "gradient_checkpointing": saving}
    print(json.dumps({"seconds": figures, "steps": arguments.steps, "ratio": round(ratio, 3)}, indent=1))


if __name__ == "__main__":
    main()
