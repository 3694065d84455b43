"""What gradient checkpointing costs Refine LoRA in time: seconds per step with it over without, in one run.

python -m benchmarks.refine [--steps 20] [--rounds 3]
"""

import argparse
import json
from statistics import median

import numpy as np
from PIL import Image

from miniature.comfyui.client import Client
from miniature.comfyui.graph import Graph
from miniature.comfyui.host import Host, prepare_base
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import person, reference_scene

WORKFLOW = ROOT / "workflows" / "difflora_one_picture.json"


def seconds(client: Client, graph: Graph, steps: int, save_memory: bool, seed: int) -> float:
    """Seconds of one run; everything before Refine LoRA is cached."""
    base = {name: graph.output("Load Checkpoint", slot) for slot, name in enumerate(("model", "clip", "vae"))}
    settings = {"prompt": "a portrait of a person", "learning_rate": 1e-3, "batch_size": 4, "seed": seed}
    links = {"lora": graph.output("Decode LoRA"), "images": graph.output("Reference 1")}
    graph = graph.copy()
    graph.add("Refine", "DiffLoRARefine", **base, **settings, **links, steps=steps, gradient_checkpointing=save_memory)
    graph.add("Curve", "PreviewImage", images=graph.output("Refine", 1))
    return client.run(graph.only("Curve").prompt).seconds


def main() -> None:
    """Measure in pairs and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with Host(prepare_base(ROOT / "output" / "host"), arguments=("--cache-lru", "100")) as host:
        client = Client(host.url)
        graph = Graph.load(WORKFLOW, client.object_info())
        picture = draw(person(7000), reference_scene(np.random.default_rng(0))).image
        graph.set("Reference 1", image=client.upload(Image.fromarray(picture), "benchmark.png"))
        seconds(client, graph, 1, False, 0)  # loads the networks
        plain, saving = [], []
        for seed in range(1, arguments.rounds + 1):
            plain.append(seconds(client, graph, arguments.steps, False, seed))
            saving.append(seconds(client, graph, arguments.steps, True, seed))
    ratio = median(a / b for a, b in zip(saving, plain, strict=True))
    figures = {"plain": plain, "save_memory": saving}
    print(json.dumps({"seconds": figures, "steps": arguments.steps, "ratio": round(ratio, 3)}, indent=1))


if __name__ == "__main__":
    main()
