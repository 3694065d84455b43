"""Images that are missing are made, method by method and person by person."""

from collections.abc import Iterator, Sequence

import torch
from tqdm import tqdm

from ..dataset.dataset_people import dataset_people
from ..dataset.teacher_files import with_teacher_files
from ..methods.given_images import GivenImages
from ..methods.method import ImageRequest
from ..methods.shared_base import SharedBase
from ..people_folders import EvaluatedPerson, read_people
from ..prompt_list import read_prompt_list
from ..settings import EvaluationSettings
from .method_plans import MethodPlan, plan_methods


class ImageGeneration:
    """The images of an evaluation, no model loaded yet."""

    def __init__(self, settings: EvaluationSettings, device: str, keep: bool = False, processes: int = 1) -> None:
        """Read people and prompts, and plan all methods; LoRAs of a store become files in the output.

        Args:
            settings: Of the evaluation.
            device: As torch names it.
            keep: Whether images stay that were made from something else.
            processes: How many make images at the same time, this one included.

        Raises:
            FileNotFoundError: People, prompts, or something that a method needs is not there.
            ValueError: Something of it can't be used.
        """
        self.settings, self.device, self.processes = settings, device, processes
        self.people = read_people(settings) if settings.dataset is None else dataset_people(settings)
        self.prompts = read_prompt_list(settings.prompts)
        self.requests = [ImageRequest(prompt, seed) for seed in settings.seeds for prompt in self.prompts]
        self.base = SharedBase(settings, device)
        given = with_teacher_files(settings, self.people)
        self.plans = plan_methods(given, self.people, self.requests, self.base, keep)

    @property
    def missing(self) -> list[tuple[MethodPlan, EvaluatedPerson]]:
        """Methods and people with images that are to be made, one method after another."""
        return [(plan, who) for plan in self.plans for who in self.people if plan.missing_of(who)]

    def run(self) -> None:
        """Make what is missing, with a progress bar; somebody whom a method can't do is noted and left out.

        Raises:
            RuntimeError: A method failed for another reason than the person: a server that does not answer, memory.
        """
        with progress_bar(self.plans) as progress:
            self.generate_people(self.missing, progress)

    def generate_people(self, pairs: Sequence[tuple[MethodPlan, EvaluatedPerson]], progress: "tqdm[None]") -> None:
        """Make the missing images of some methods and people, then free all models; it fails as `run` does."""
        before = None
        for plan, person in pairs:
            self.release_others(before, plan)
            progress.set_postfix_str(f"{plan.name}, {person.name}")
            for made in self.generate_person(plan, person):
                progress.update(made)
            before = plan
        self.release_others(before, None)
        self.base.release()

    def release_others(self, before: MethodPlan | None, now: MethodPlan | None) -> None:
        """Free what another method has loaded before."""
        if before is not None and before is not now and not isinstance(before.method, GivenImages):
            before.method.release()

    def generate_person(self, plan: MethodPlan, person: EvaluatedPerson) -> Iterator[int]:
        """Make a person's missing images by a method; yields how many were made, batch by batch."""
        assert not isinstance(plan.method, GivenImages)  # of which nothing is missing
        own, images, batch = plan.people[person.name], plan.images, self.settings.batch
        record = images.begin(person.name, own)
        try:
            with plan.method.prepare(person) as ready:
                record = images.prepared(record, ready.facts, describe_device(self.device, self.processes))
                for start in range(0, len(own.missing), batch):
                    requests = own.missing[start : start + batch]
                    for request, made in zip(requests, ready.generate(requests), strict=True):
                        record = images.add(record, request, made)
                    yield len(requests)
        except ValueError as error:
            tqdm.write(f"{plan.name} can't do {person.name}: {error}")
            images.fail(record, str(error))


def describe_device(device: str, processes: int) -> str:
    """Say what seconds were measured on: the GPU, or the CPU with its threads, and who shared it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    alone = f"{device.upper()}, {threads} {'thread' if threads == 1 else 'threads'}"
    return alone if processes == 1 else f"{alone} in each of {processes} processes"


def progress_bar(plans: Sequence[MethodPlan]) -> "tqdm[None]":
    """Return the progress bar of all images that are to be made."""
    return tqdm(total=sum(plan.missing for plan in plans), unit="image", desc="images", disable=None)
