"""Reconstruction quality of the LAE's networks on people outside the training, at several compression ratios.

    python -m benchmarks.lae_networks [--build miniature/build] [--ratios 1000 300 126 38 13] [--networks conv …]
        [--form raw] [--weights 0 0.5] [--seeds 0 1 2] [--steps 200] [--end-to-end 0] [--people 8]
        [--out output/lae_networks.json] [--minutes 7]

Per network and ratio, on the validation people of the miniature's teachers in the scratch folder of its build: R² of
normalized LoRAs and cosine of ΔW relative to the mean LoRA, as fitted (which is deterministic) and after a short
training with and without the weight-preserved term, with mean and range over seeds. Trained weights are EMA weights
after the last step; no earlier ones are chosen, except with --end-to-end.
--form: the factors are used as they were trained from the shared start, in the canonical form of a thin SVD, or turned
from that form towards the start; ΔW is the same in all three.
--end-to-end: each trained network is trained on for so many steps with the base model's diffusion loss. Of its start,
middle and end the best is kept, by teacher recovery on these validation people, which favors all networks a little.
--people: for so many validation people also the share of the teacher's face similarity that is kept,
(LAE − none) / (teacher − none); like --end-to-end, this needs the miniature's weights and a ComfyUI for the tokenizer.
Results are collected in --out: a run continues where the last one ended, and prints the table. Results of other
teachers or of other weights of the miniature stay in --out, and are neither used nor printed.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lae_networks.networks import (
    FORMS,
    NETWORKS,
    SHAPES,
    config_of,
    finetune_shortly,
    in_form,
    settings,
    start_like,
    train_shortly,
)
from benchmarks.lae_networks.table import Entry, show
from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.model import LAE
from difflora_core.files import replacing
from miniature.base_model.config import lora_layout
from miniature.comfyui.host import find_tokenizer
from miniature.measure.lora_evaluation import open_evaluation
from miniature.paths import BUILD, WEIGHTS
from miniature.personal.finetune import FinetuneData
from training.autoencoder.reconstruction_metrics import evaluate
from training.autoencoder.train import new_lae
from training.lora_dataset.fingerprints import hash_files, hash_tensor, hash_value
from training.store.lora_store import LoRAStore
from training.store.loras import LoRAsInMemory

Kept = Callable[[LAE], dict[str, float]]


@dataclass(frozen=True)
class Data:
    """What all networks are made from and measured on."""

    loras: Tensor
    """Training people's (people, numel)."""
    validation: LoRAsInMemory
    """Validation people's."""
    kept: Kept
    """Measures images; an empty result if none are to be made."""
    end_to_end: FinetuneData | None
    """For training with the base model."""
    origin: str
    """Hash of what the measurements depend on beside their settings, see `origin_of`."""


def similarity_metric(people: int, validation: Tensor, names: list[int]) -> Kept:
    """The kept share of face similarity, on the first so many validation people."""
    evaluation = open_evaluation(WEIGHTS, find_tokenizer(), names[:people])
    teachers = validation[:people]
    none, teacher = (evaluation.evaluate(loras)["similarity"] for loras in (torch.zeros_like(teachers), teachers))

    @torch.no_grad()
    def kept(lae: LAE) -> dict[str, float]:
        similarity = evaluation.evaluate(lae.decode(lae.encode(teachers)))["similarity"]
        return {"kept": (similarity - none) / (teacher - none), "similarity": similarity}

    return kept


def measure(arguments: argparse.Namespace, data: Data, entries: list[Entry]) -> Iterator[Entry]:
    """Measure all cases of the command line that are not in `entries` yet."""
    known = {json.dumps(entry["case"]) for entry in entries}
    for ratio in arguments.ratios:
        for network in arguments.networks:
            start = {
                "ratio": ratio,
                "network": network,
                "form": arguments.form,
                "people": arguments.people,
                "origin": data.origin,
            }
            runs = [
                {**start, "weight": weight, "seed": seed, "steps": arguments.steps, "end_to_end": arguments.end_to_end}
                for seed in arguments.seeds
                for weight in arguments.weights
                if network != "linear"
            ]
            missing = [case for case in (start, *runs) if json.dumps(case) not in known]
            if missing:
                yield from measure_network(config_of(network, ratio), missing, data)


def measure_network(config: LAEConfig, cases: list[Entry], data: Data) -> Iterator[Entry]:
    """Measure one network as fitted, and trained in the ways that `cases` name."""
    lae = new_lae(lora_layout(), config, 0)
    begun = time.perf_counter()
    lae.fit(data.loras)
    facts = {"values": config.tokens * config.width, "parameters": sum(p.numel() for p in lae.parameters())}
    for case in cases:
        if "seed" not in case:
            fitted = {} if config.kind == "flat" else {**evaluate(lae, data.validation), **data.kept(lae)}
            yield {"case": case, **facts, "fit_seconds": time.perf_counter() - begun, **fitted}
            continue
        trained = start_like(lae, case["seed"])
        seconds = train_shortly(trained, data.loras, settings(case["seed"], case["steps"], case["weight"]))
        if data.end_to_end:
            finetune_shortly(trained, data.end_to_end, case["end_to_end"], case["seed"])
        figures = {**evaluate(trained, data.validation), **data.kept(trained)}
        yield {"case": case, **facts, "seconds_per_step": seconds, **figures}


def load_data(arguments: argparse.Namespace) -> Data:
    """Load teachers, base model and measures, as far as the command line asks for them."""
    store = LoRAStore(arguments.build / "teachers", lora_layout())
    (loras, _), (validation, names) = store.read("train"), store.read("validation")
    loras, validation = in_form(arguments.form, loras), in_form(arguments.form, validation)
    kept = similarity_metric(arguments.people, validation, names) if arguments.people else lambda lae: {}
    finetuning = FinetuneData.load(arguments.build, WEIGHTS, find_tokenizer()) if arguments.end_to_end else None
    weights = WEIGHTS if arguments.people or arguments.end_to_end else None
    return Data(loras, LoRAsInMemory(validation), kept, finetuning, origin_of([loras, validation], weights))


def origin_of(loras: Sequence[Tensor], weights: Path | None) -> str:
    """Hash teachers and, where images or the diffusion loss are measured, all weights in a folder but DiffLoRA's own.

    Args:
        loras: Of training and of validation people (people, numel), as they are used.
        weights: The miniature's; None if they are not used.
    """
    files = sorted(weights.rglob("*.safetensors")) if weights else []
    files = [path for path in files if path.parent.name != "difflora"]
    return hash_value([*(hash_tensor(own) for own in loras), hash_files(files)])


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=BUILD, help="scratch folder of the miniature's build")
    parser.add_argument("--ratios", type=int, nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--form", choices=FORMS, default="raw", help="of the LoRAs' factors")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5], help="of the weight-preserved term")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: as fitted only")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--end-to-end", type=int, default=0, help="steps with the base model after that")
    parser.add_argument("--people", type=int, default=0, help="validation people whose images are evaluated")
    parser.add_argument("--out", type=Path, default=Path("output/lae_networks.json"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so many, when the current measurement is done"
    )
    arguments = parser.parse_args()
    if arguments.end_to_end and arguments.form != "raw":
        parser.error("--end-to-end trains on raw factors only: leave --form out")
    torch.set_num_threads(1)
    data = load_data(arguments)
    entries = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    end = time.monotonic() + 60 * arguments.minutes
    for entry in measure(arguments, data, entries):
        entries.append(entry)
        with replacing(arguments.out) as partial:
            partial.write_text(json.dumps(entries, indent=1))
        if time.monotonic() > end:
            print("stopped by --minutes; the same command continues from here")
            break
    show([entry for entry in entries if entry["case"].get("origin") == data.origin])


if __name__ == "__main__":
    main()
