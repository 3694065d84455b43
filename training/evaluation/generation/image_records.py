"""A method's images, and the records that tie them to what they were made from.

    <output>/images/<method>/<person>/NUMBER_SEED.png    an image; the layout of methods of the kind images, too
    <output>/records/<method>/<person>.json              its settings, prompts and seconds

A record is written after each image: an image that is not in it was not finished, and is made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from difflora_core.images import write_image
from training.lora_dataset.fingerprints import Fingerprint, differences
from training.lora_dataset.manifest import Manifest, Record

from ..methods.method import ImageRequest, MadeImage

IMAGES, RECORDS = "images", "records"


@dataclass(frozen=True)
class PersonPlan:
    """What is to be made of one person by one method."""

    inputs: Fingerprint
    """What images are made from now."""
    missing: Sequence[ImageRequest]
    """Images that are to be made."""
    changes: Sequence[str] = field(default_factory=list)
    """What differs from what the images that are there were made from."""


class MethodImages:
    """The images of one method."""

    def __init__(self, output: Path, method: str) -> None:
        self.method, self.folder = method, output / IMAGES / method
        self.manifest = Manifest(output / RECORDS / method)

    def path(self, person: str, request: ImageRequest) -> Path:
        """Return an image's file."""
        return self.folder / person / request.file

    def record(self, person: str) -> Record:
        """Return what is recorded; of somebody of whom nothing is, an empty record."""
        return self.manifest.read(person) or Record(person, "failed", "nothing was made yet")

    def plan(self, person: str, requests: Sequence[ImageRequest], inputs: Fingerprint, keep: bool) -> PersonPlan:
        """Compare what is there with what is wanted.

        Args:
            person: Whose images.
            requests: All that are wanted.
            inputs: What they are made from now.
            keep: Whether images that were made from something else stay.

        Raises:
            ValueError: They stay, but others are missing, which would be made from something else.
        """
        record = self.record(person)
        changes = differences(record.inputs, inputs) if made_images(record) else []
        if changes and not keep:
            return PersonPlan(inputs, requests, changes)
        missing = [request for request in requests if not self._is_made(record, person, request)]
        if changes and missing:
            raise ValueError(
                f"{person}: {len(missing)} of {len(requests)} images are missing, and the others were "
                f"made from something else ({changes[0]}); without --keep all are made again"
            )
        return PersonPlan(record.inputs if changes else inputs, missing, changes)

    def _is_made(self, record: Record, person: str, request: ImageRequest) -> bool:
        entry = made_images(record).get(request.file)
        return (
            entry is not None
            and entry.get("prompt") == request.prompt.template
            and self.path(person, request).is_file()
        )

    def begin(self, person: str, plan: PersonPlan) -> Record:
        """Forget images that were made from something else; return the record that further images are added to."""
        record = self.record(person)
        if plan.inputs != record.inputs:
            self.manifest.remove(person)
            for file in made_images(record):
                (self.folder / person / Path(file).name).unlink(missing_ok=True)
            return Record(person, facts={"images": {}}, inputs=plan.inputs)
        return replace(record, status="done", reason="")

    def prepared(self, record: Record, facts: Mapping[str, Any], device: str) -> Record:
        """Note what the preparation took, and on what device, and write the record."""
        return self._write(replace(record, facts={**record.facts, "preparation": dict(facts), "device": device}))

    def add(self, record: Record, request: ImageRequest, made: MadeImage) -> Record:
        """Write an image, then the record with it."""
        write_image(self.path(record.item, request), made.image)
        entry = {"prompt": request.prompt.template, "seconds": made.seconds}
        images = {**made_images(record), request.file: entry}
        return self._write(replace(record, facts={**record.facts, "images": images}))

    def fail(self, record: Record, reason: str) -> None:
        """Note that a person can't be done; what was made is kept, the next run tries again."""
        self._write(replace(record, status="failed", reason=reason))

    def _write(self, record: Record) -> Record:
        self.manifest.write(record)
        return record


def made_images(record: Record) -> Mapping[str, Mapping[str, Any]]:
    """Return what is recorded of each image, by its file's name."""
    images = record.facts.get("images", {})
    return images if isinstance(images, dict) else {}
