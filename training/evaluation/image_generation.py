"""Images of people × prompts × seeds by all methods: planned first, then made where they are missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .image_records import MethodImages, PersonPlan
from .methods.comfyui_workflow import ComfyUIWorkflow
from .methods.given_images import GivenImages
from .methods.method import ImageRequest, Method
from .methods.method_list import open_method
from .methods.shared_base import SharedBase
from .people_folders import EvaluatedPerson
from .settings import EvaluationSettings


@dataclass(frozen=True)
class MethodPlan:
    """What one method has to make."""

    name: str
    """The method's."""
    method: Method | GivenImages
    """The method, nothing loaded yet."""
    images: MethodImages
    """Its images."""
    people: Mapping[str, PersonPlan]
    """By person; empty for given images."""

    @property
    def missing(self) -> int:
        """How many images are to be made."""
        return sum(len(plan.missing) for plan in self.people.values())

    @property
    def placement(self) -> str:
        """For the report: where the method's words stand, and how many references it sees."""
        count = self.method.references
        seen = "" if count is None else f"; sees the first {'reference' if count == 1 else f'{count} references'}"
        return f"{self.method.placement}{seen}"

    def check(self) -> None:
        """Check what other programs are needed, if anything is to be made.

        Raises:
            RuntimeError: One does not answer, or can't do it.
        """
        if self.missing and isinstance(self.method, ComfyUIWorkflow):
            self.method.check()

    @property
    def remade(self) -> str:
        """Say what is made again, because it was made from something else; empty if nothing is."""
        return self._changed([plan for plan in self.people.values() if plan.missing], "are made again")

    @property
    def kept(self) -> str:
        """Say what is kept, though it was made from something else; empty if nothing is."""
        return self._changed([plan for plan in self.people.values() if not plan.missing], "are kept")

    def _changed(self, plans: Sequence[PersonPlan], what: str) -> str:
        changed = [plan for plan in plans if plan.changes]
        listed = "; ".join(dict.fromkeys(change for plan in changed for change in plan.changes))
        people = f"{len(changed)} {'person' if len(changed) == 1 else 'people'}"
        return f"{self.name}: images of {people} were made from something else and {what}: {listed}" if changed else ""

    def files(self, person: EvaluatedPerson, requests: Sequence[ImageRequest]) -> list[Path]:
        """Return the images of a person.

        Raises:
            FileNotFoundError: One of given images is missing.
            ValueError: Two of them are of one prompt and seed.
        """
        if isinstance(self.method, GivenImages):
            return self.method.files(person, requests)
        return [self.images.path(person.name, request) for request in requests]

    def failure(self, person: str) -> str | None:
        """Say why the method can't do a person; None if it can, or if all images were there before the run."""
        record = self.images.record(person)
        tried = person in self.people and self.people[person].missing
        return record.reason if tried and record.status != "done" else None


def plan_methods(
    settings: EvaluationSettings,
    people: Sequence[EvaluatedPerson],
    requests: Sequence[ImageRequest],
    base: SharedBase,
    keep: bool = False,
) -> list[MethodPlan]:
    """Plan all methods, without loading a model.

    Raises:
        FileNotFoundError: Something that a method needs is not there.
        ValueError: A method or a person can't be used.
    """
    return [_plan_method(name, settings, people, requests, base, keep) for name in settings.methods]


def _plan_method(
    name: str,
    settings: EvaluationSettings,
    people: Sequence[EvaluatedPerson],
    requests: Sequence[ImageRequest],
    base: SharedBase,
    keep: bool,
) -> MethodPlan:
    images = MethodImages(settings.output, name)
    try:
        method = open_method(name, settings, base)
        if isinstance(method, GivenImages):
            for person in people:
                method.files(person, requests)
            return MethodPlan(name, method, images, {})
        plans = {p.name: images.plan(p.name, requests, method.fingerprint(p), keep) for p in people}
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"method {name}: {error}") from error
    return MethodPlan(name, method, images, plans)


def generate_missing(plans: Sequence[MethodPlan], people: Sequence[EvaluatedPerson], batch: int) -> None:
    """Make the images that are missing, with a progress bar; somebody whom a method can't do is noted and left out.

    Raises:
        RuntimeError: A method failed for another reason than the person: a server that does not answer, memory.
    """
    with tqdm(total=sum(plan.missing for plan in plans), unit="image", desc="images", disable=None) as progress:
        for plan in plans:
            for person in people:
                if person.name in plan.people and plan.people[person.name].missing:
                    progress.set_postfix_str(f"{plan.name}, {person.name}")
                    for made in _generate_person(plan, person, batch):
                        progress.update(made)
            if not isinstance(plan.method, GivenImages):
                plan.method.release()


def _generate_person(plan: MethodPlan, person: EvaluatedPerson, batch: int) -> Iterator[int]:
    """Make a person's missing images; yields how many were made, batch by batch."""
    assert not isinstance(plan.method, GivenImages)  # of which nothing is missing
    own, images = plan.people[person.name], plan.images
    record = images.begin(person.name, own)
    try:
        with plan.method.prepare(person) as ready:
            record = images.prepared(record, ready.facts)
            for start in range(0, len(own.missing), batch):
                requests = own.missing[start : start + batch]
                for request, made in zip(requests, ready.generate(requests), strict=True):
                    record = images.add(record, request, made)
                yield len(requests)
    except ValueError as error:
        tqdm.write(f"{plan.name} can't do {person.name}: {error}")
        images.fail(record, str(error))
