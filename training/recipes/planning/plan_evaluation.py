"""What an evaluation will cost."""

from collections.abc import Iterable

from training.evaluation.method_settings import MethodSettings
from training.evaluation.prompt_list import read_prompt_list
from training.evaluation.settings import EvaluationSettings
from training.lora_dataset.config import load_config

from .plan_dataset import CLIP_GIB, STAGE_OFFSET_GIB, generation_bytes, generation_seconds, png_bytes
from .plan_row import PlanRow, Situation, add
from .plan_trainers import FROZEN_BYTES
from .scaling import GIB, PHOTOMAKER_BYTES, dreambooth_bytes, dreambooth_figures, dreambooth_seconds

MADE_ELSEWHERE = ("images", "comfyui")
"""Kinds of methods whose images another program makes."""
SAME_FOR_ALL = ("none", "mean_lora")
"""Kinds of methods whose images each process generates once, and writes for each of its people."""
NOT_COUNTED = {"textual_inversion": "the training of", "instantid": "the networks of"}
"""What of a kind of method is in no figure."""


def evaluation_row(settings: EvaluationSettings, at: Situation) -> PlanRow:
    """Return the row of `evaluate`, whose images all GPUs make."""
    own = {name: method for name, method in settings.methods.items() if method.kind not in MADE_ELSEWHERE}
    memory = _bytes(settings, own.values(), at)
    people = evaluated_people(settings, at)
    if people is None:
        return PlanRow("evaluate", memory=memory, note="how many people there are is not known: set max_people")
    requests = len(read_prompt_list(settings.prompts)) * len(settings.seeds)
    once = min(at.processes, people)
    images = sum(requests * (once if method.kind in SAME_FOR_ALL else people) for method in own.values())
    guided = settings.guidance_scale > 1
    seconds, note = generation_seconds(at, images, settings.size, settings.steps, guided)
    trained = [method for method in own.values() if method.kind == "dreambooth"]
    seconds = add(seconds, *(_training_seconds(method, settings.size, people, at) for method in trained))
    missing = ["LoRAs beside the weights", "metrics"]
    missing += [f"{NOT_COUNTED[method.kind]} {name}" for name, method in own.items() if method.kind in NOT_COUNTED]
    missing += [f"the refinement of {name}" for name, method in own.items() if method.refinement is not None]
    missing += [name for name in settings.methods if name not in own]
    return PlanRow(
        "evaluate",
        images,
        png_bytes(len(own) * people * requests, settings.size),
        memory,
        seconds,
        f"{len(own)} methods, {people} people, {requests} images of each; {note}; without {', '.join(missing)}",
    )


def evaluated_people(settings: EvaluationSettings, at: Situation) -> int | None:
    """Return how many people are evaluated: of a dataset the split's share of all; None if nothing says it."""
    if settings.dataset is None:
        return settings.max_people
    pack = load_config(settings.dataset).pack
    people = round(at.people * (pack.test if settings.split == "test" else pack.validation))
    return people if settings.max_people is None else min(people, settings.max_people)


def _training_seconds(method: MethodSettings, size: int, people: int, at: Situation) -> float | None:
    """Seconds of LoRAs that each process trains one after another."""
    training = method.training
    figures = dreambooth_figures(at.card, size, training.gradient_checkpointing)
    step = dreambooth_seconds(figures, training.images_per_person, size)
    return None if step is None else people * training.steps * step / at.processes


def _bytes(settings: EvaluationSettings, methods: Iterable[MethodSettings], at: Situation) -> float | None:
    """Peak of GPU memory: what the base model needs, and the method with the largest models beside it."""
    generated = generation_bytes(at, settings.batch, settings.size, settings.guidance_scale > 1)
    needed = [generated]
    for method in methods:
        if method.kind == "difflora":
            networks = [network.parameters for network in (at.lae, at.denoiser) if network is not None]
            needed.append(add(generated, FROZEN_BYTES * sum(networks), CLIP_GIB * GIB))
        elif method.kind == "photomaker":
            needed.append(add(generated, PHOTOMAKER_BYTES))
        elif method.kind == "dreambooth" and generated is not None:
            figures = dreambooth_figures(at.card, settings.size, method.training.gradient_checkpointing)
            trained = dreambooth_bytes(figures, method.training.images_per_person, settings.size)
            needed.append(add(trained, STAGE_OFFSET_GIB * GIB))
    return max((peak for peak in needed if peak is not None), default=None)
