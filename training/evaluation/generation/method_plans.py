"""What each method has to make, found out before a model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..methods.comfyui_workflow import ComfyUIWorkflow
from ..methods.given_images import GivenImages
from ..methods.method import ImageRequest, Method
from ..methods.method_list import open_method
from ..methods.shared_base import SharedBase
from ..people_folders import EvaluatedPerson
from ..settings import EvaluationSettings
from .image_records import MethodImages, PersonPlan


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

    def missing_of(self, person: EvaluatedPerson) -> int:
        """Return how many images of a person are to be made."""
        return len(self.people[person.name].missing) if person.name in self.people else 0

    @property
    def placement(self) -> str:
        """For the report: where the method's words stand, and how many references it sees."""
        count = self.method.references
        seen = "" if count is None else f"; sees the first {'reference' if count == 1 else f'{count} references'}"
        return f"{self.method.placement}{seen}"

    @property
    def is_on_server(self) -> bool:
        """Whether a server makes the images, one after another, and keeps what the last one has loaded and computed."""
        return isinstance(self.method, ComfyUIWorkflow)

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
        FileNotFoundError: Something that methods need is not there; all of these methods are named.
        ValueError: A method or a person can't be used.
    """
    plans: list[MethodPlan] = []
    errors: list[FileNotFoundError | ValueError] = []
    failed: dict[str, list[str]] = {}  # names by message: what several methods need is said once
    for name in settings.methods:
        try:
            plans.append(_plan_method(name, settings, people, requests, base, keep))
        except (FileNotFoundError, ValueError) as error:
            errors.append(error)
            failed.setdefault(str(error), []).append(name)
    if errors:
        kind = FileNotFoundError if all(isinstance(error, FileNotFoundError) for error in errors) else ValueError
        raise kind("; ".join(f"method {', '.join(names)}: {text}" for text, names in failed.items())) from errors[0]
    return plans


def _plan_method(
    name: str,
    settings: EvaluationSettings,
    people: Sequence[EvaluatedPerson],
    requests: Sequence[ImageRequest],
    base: SharedBase,
    keep: bool,
) -> MethodPlan:
    images = MethodImages(settings.output, name)
    method = open_method(name, settings, base)
    if isinstance(method, GivenImages):
        for person in people:
            method.files(person, requests)
        return MethodPlan(name, method, images, {})
    plans = {p.name: images.plan(p.name, requests, method.fingerprint(p), keep) for p in people}
    return MethodPlan(name, method, images, plans)
