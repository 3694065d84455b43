"""Reconstruction quality of the LAE's networks on people outside the training, at several compression ratios.

    python -m benchmarks.lae_networks [--store miniature/build/teachers] [--ratios 300 100 30 10] [--networks conv …]
        [--weights 0 0.5] [--seeds 0 1 2] [--steps 200] [--people 8] [--out output/lae_networks.json] [--minutes 7]

Per network and ratio, on the validation people of a store of the miniature's layout: R² of normalized LoRAs and cosine
of ΔW relative to the mean LoRA, as fitted (which is deterministic) and after a short training with and without the
weight-preserved term, with mean and range over seeds. Trained weights are EMA weights after the last step; no earlier
ones are chosen. --people: for so many validation people also the share of the teacher's face similarity that is kept,
(LAE − none) / (teacher − none); this needs the miniature's weights and a ComfyUI for the tokenizer.
Results are collected in --out: a run continues where the last one ended, and prints the table.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.files import replacing
from miniature.base_model.config import lora_layout
from miniature.paths import BUILD, WEIGHTS
from training.autoencoder.config import LAETraining, LossWeights
from training.autoencoder.reconstruction_metrics import evaluate
from training.autoencoder.train import new_lae
from training.autoencoder.weight_space_objective import LAEObjective
from training.engine.config import TrainConfig
from training.engine.loop import train
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAs, LoRAsInMemory

# Latent, groups, chunk and codes per chunk and per module. Groups so that a group has well under 1,000 latents, since
# there are about 1,000 LoRAs to fit them to; codes so that they hold at least as many values as the latent.
SHAPES: dict[int, dict[str, int]] = {
    300: {"tokens": 22, "width": 16, "groups": 1, "chunk": 2048, "conv": 56, "token": 56},
    100: {"tokens": 70, "width": 12, "groups": 2, "chunk": 2048, "conv": 112, "token": 112},
    30: {"tokens": 70, "width": 40, "groups": 5, "chunk": 1024, "conv": 128, "token": 160},
    10: {"tokens": 70, "width": 120, "groups": 14, "chunk": 512, "conv": 128, "token": 320},
}
NETWORKS = ("conv", "conv shared", "token", "token shared", "flat", "linear")
Entry = dict[str, Any]


def config_of(network: str, ratio: int) -> LAEConfig:
    """The shape of a network at about a ratio."""
    shape = SHAPES[ratio]
    latent = LAEConfig(tokens=shape["tokens"], width=shape["width"])
    kind, _, shared = network.partition(" ")
    if kind == "linear":
        return replace(latent, kind="linear")
    if kind == "flat":
        return replace(latent, kind="flat", hidden=64)
    staged = replace(latent, groups=shape["groups"], channels=shape[kind], tied=True, local=not shared)
    if kind == "conv":
        return replace(staged, chunk=shape["chunk"])
    return replace(staged, kind="token", hidden=128, heads=4, blocks=2)


def settings(seed: int, steps: int, weight: float) -> LAETraining:
    """The miniature's settings, for a short run."""
    loop = TrainConfig(steps, 3e-4, warmup=steps // 10, weight_decay=0.01, ema=0.98, save_every=steps, seed=seed)
    return LAETraining(loop, losses=LossWeights(weight_preserved=weight))


def start_like(fitted: LAE, seed: int) -> LAE:
    """A new autoencoder with the fitted one's statistics and stages, and own random weights between the stages."""
    lae = new_lae(fitted.layout, fitted.config, seed)
    if fitted.config.kind == "flat":
        own = {name: value for name, value in lae.state_dict().items() if name.startswith("network.")}
    else:
        own = {name: value for name, value in lae.state_dict().items() if "_blocks." in name}
    lae.load_state_dict({**fitted.state_dict(), **own})
    return lae


def train_shortly(lae: LAE, loras: Tensor, training: LAETraining) -> float:
    """Train in place; return the seconds per step."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        objective = LAEObjective(lae, LoRAsInMemory(loras), training)
        train(lae, objective, training.loop, Path(folder), "lae")
    return (time.perf_counter() - start) / training.loop.steps


Kept = Callable[[LAE], dict[str, float]]


def similarity_metric(people: int, validation: Tensor, names: list[int]) -> Kept:
    """The kept share of face similarity, on the first so many validation people."""
    from miniature.comfyui.host import find_tokenizer
    from miniature.measure.lora_evaluation import open_evaluation

    evaluation = open_evaluation(WEIGHTS, find_tokenizer(), names[:people])
    teachers = validation[:people]
    none, teacher = (evaluation.evaluate(loras)["similarity"] for loras in (torch.zeros_like(teachers), teachers))

    @torch.no_grad()
    def kept(lae: LAE) -> dict[str, float]:
        similarity = evaluation.evaluate(lae.decode(lae.encode(teachers)))["similarity"]
        return {"kept": (similarity - none) / (teacher - none), "similarity": similarity}

    return kept


def measure(
    arguments: argparse.Namespace, loras: Tensor, validation: LoRAs, kept: Kept, entries: list[Entry]
) -> Iterator[Entry]:
    """Measure all cases of the command line that are not in `entries` yet."""
    known = {json.dumps(entry["case"]) for entry in entries}

    def missing(case: Entry) -> bool:
        return json.dumps(case) not in known

    for ratio in arguments.ratios:
        for network in arguments.networks:
            start = {"ratio": ratio, "network": network, "people": arguments.people}
            runs = [
                {**start, "weight": weight, "seed": seed, "steps": arguments.steps}
                for seed in arguments.seeds
                for weight in arguments.weights
                if network != "linear"
            ]
            if not missing(start) and not any(map(missing, runs)):
                continue
            lae = new_lae(lora_layout(), config_of(network, ratio), 0)
            begun = time.perf_counter()
            lae.fit(loras)
            facts = {
                "values": lae.config.tokens * lae.config.width,
                "parameters": sum(p.numel() for p in lae.parameters()),
            }
            if missing(start):
                figures = {**evaluate(lae, validation), **kept(lae)} if network != "flat" else {}
                yield {"case": start, **facts, "fit_seconds": time.perf_counter() - begun, **figures}
            for case in filter(missing, runs):
                other = start_like(lae, case["seed"])
                pace = train_shortly(other, loras, settings(case["seed"], case["steps"], case["weight"]))
                yield {"case": case, **facts, "seconds_per_step": pace, **evaluate(other, validation), **kept(other)}


def show(entries: list[Entry]) -> None:
    """Print the table: a line per network, ratio and weight, over all seeds."""
    print("ratio  network       trained       values  M param.   R²                  ΔW cosine           kept")
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        case = {key: value for key, value in entry["case"].items() if key != "seed"}
        groups.setdefault(json.dumps(case), []).append(entry)
    order = list(SHAPES)
    for key in sorted(groups, key=lambda key: (order.index(json.loads(key)["ratio"]), key)):
        case, found = json.loads(key), groups[key]
        trained = f"wp {case['weight']:g} × {len(found)}" if "weight" in case else "as fitted"
        cells = [
            _spread([entry[name] for entry in found if name in entry]) for name in ("r2", "delta_w_cosine", "kept")
        ]
        if any(cells):
            print(
                f"{case['ratio']:5d}  {case['network']:13s} {trained:12s} {found[0]['values']:7d}  "
                f"{found[0]['parameters'] / 1e6:7.2f}   " + "".join(f"{cell:20s}" for cell in cells)
            )


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=BUILD / "teachers")
    parser.add_argument("--ratios", type=int, nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5], help="of the weight-preserved term")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: as fitted only")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--people", type=int, default=0, help="validation people whose images are evaluated")
    parser.add_argument("--out", type=Path, default=Path("output/lae_networks.json"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so many, when the current measurement is done"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = LoRAStore(arguments.store, lora_layout())
    loras, _ = store.read("train")
    validation, names = store.read("validation")
    entries = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    end = time.monotonic() + 60 * arguments.minutes
    kept = similarity_metric(arguments.people, validation, names) if arguments.people else lambda lae: {}
    for entry in measure(arguments, loras, LoRAsInMemory(validation), kept, entries):
        entries.append(entry)
        with replacing(arguments.out) as partial:
            partial.write_text(json.dumps(entries, indent=1))
        if time.monotonic() > end:
            print("stopped by --minutes; the same command continues from here")
            break
    show(entries)


if __name__ == "__main__":
    main()
