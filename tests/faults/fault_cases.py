"""The commands that are broken, each with the folder that it begins from, at the size of seconds."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.forked_runs import EVERYTHING, OnEvent, Run, start, training
from tests.faults.tiny_inputs import (
    write_embed_settings,
    write_faces,
    write_finetuning,
    write_lora_files,
    write_photomaker_file,
    write_toy_store,
)


@dataclass(frozen=True)
class Case:
    """A command line, and what it begins from."""

    name: str
    """Of the trainer or stage."""
    words: tuple[str, ...]
    """After `python -m training`, without --config."""
    after: str | None = None
    """The case whose finished folder it begins from; None is an empty one."""
    prepare: Callable[[Path, Path], None] | None = None
    """(folder, shared folder) → writes further inputs into the folder."""
    settings: dict = field(default_factory=dict)
    """Sections of the settings that differ from `DATASET`."""
    broken: bool = True
    """False: it only makes what another case begins from."""
    imports: tuple[str, ...] = EVERYTHING
    """What is imported before a run is forked."""


IN_TRAIN_LAE = ("training.autoencoder", "training.engine", "accelerate.tracking", "torch.utils.tensorboard")
DATASET = {
    "workspace": "work",
    "base": "../shared/base",
    "faces": {"pack": "miniature", "root": "../shared/insightface"},
    "collect": {"path": "../shared/faces", "min_face": 24, "same_person": 0.9, "same_image": 0.9995},
    "generate": {"enabled": False},
    "filter": {"min_face": 24, "min_sharpness": 0.0, "min_similarity": 0.0, "min_images": 2},
    "preprocess": {"size": 128, "held_out": 1},
    "dreambooth": {
        "feed_forward": True,
        "people": 1,
        "steps": 4,
        "images_per_person": 1,
        "dtype": "fp32",
        "gradient_checkpointing": False,
    },
    "pack": {"validation": 0.4, "test": 0.0, "people_per_shard": 1},
    "verify": {"people": 4, "images": 1, "steps": 2},
}
PHOTOMAKER = {
    "file": "../shared/photomaker.bin",
    "images": 3,
    "prompts": "../shared/prompts/miniature.txt",
    "negative": "../shared/prompts/empty.txt",
    "size": 128,
    "steps": 2,
    "references": 2,
    "batch": 2,
}


CASES = (
    Case("train-lae", ("train-lae",), prepare=write_toy_store, imports=IN_TRAIN_LAE),
    Case("train-difflora", ("train-difflora",), prepare=write_toy_store),
    Case("collect", ("dataset", "collect"), prepare=write_faces),
    Case("generate", ("dataset", "generate"), "collect", write_photomaker_file, {"generate": PHOTOMAKER}),
    Case("pass-on", ("dataset", "generate"), "collect", broken=False),
    Case("filter", ("dataset", "filter"), "pass-on"),
    Case("preprocess", ("dataset", "preprocess"), "filter"),
    Case("dreambooth", ("dataset", "dreambooth"), "preprocess"),
    Case("pack", ("dataset", "pack"), "dreambooth"),
    Case("verify", ("dataset", "verify"), "pack"),
    Case("import", ("dataset", "import", "--from", "{shared}/loras"), prepare=write_lora_files),
    Case("embed", ("embed",), "pack", write_embed_settings),
    Case("finetune-lae", ("finetune",), "embed", write_finetuning),
    Case("finetune-difflora", ("finetune",), "embed", write_finetuning),
)


class World:
    """Folders in which cases run. Results of uninterrupted runs are kept: other cases begin from them."""

    def __init__(self, folder: Path, trial: Path | None = None) -> None:
        """Begin.

        Args:
            folder: For everything.
            trial: Another folder in which commands run, perhaps on a small disk.
        """
        self.folder, self.shared = folder, folder / "shared"
        self.place = trial or folder / "trial"
        self.logs = folder / "logs"
        self.references: dict[str, tuple[Run, Path]] = {}
        self.shared.mkdir(parents=True)

    def set_up(self, case: Case) -> Path:
        """Make the folder that a case begins from; it is always the same one, since some files name their folder."""
        folder, start_folder = self.place / case.name, self.folder / "starts" / case.name
        if not start_folder.exists():
            self._make_start(case, start_folder)
        shutil.rmtree(folder, ignore_errors=True)
        self.place.mkdir(exist_ok=True)
        if not (self.place / "shared").exists():
            (self.place / "shared").symlink_to(self.shared)
        return Path(shutil.copytree(start_folder, folder))

    def _make_start(self, case: Case, folder: Path) -> None:
        """Write what a case begins from, in a child: what it imports and computes may start threads.

        Raises:
            RuntimeError: It failed.
        """
        if case.after is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.reference(by_name(case.after))[1], folder)
        (folder / "dataset.yaml").write_text(json.dumps(DATASET | case.settings), encoding="utf-8")  # JSON is YAML
        prepare = case.prepare
        if prepare is not None:
            made = start(lambda: prepare(folder, self.shared) or 0, folder, self.logs / "starts").wait()
            if made.code != 0:
                raise RuntimeError(f"what {case.name} begins from could not be made: {made.output[-3000:]}")

    def run(
        self, case: Case, kill_after: float | None = None, on_event: OnEvent | None = None, words: Sequence[str] = ()
    ) -> Run:
        """Run a case's command in its folder to its end, or until it is killed."""
        child = start(training(words or self.words(case)), self.place / case.name, self.logs / case.name, on_event)
        return child.wait(kill_after)

    def words(self, case: Case) -> list[str]:
        """The whole command line after `python -m training`."""
        config = self.place / case.name / ("dataset.yaml" if case.words[0] == "dataset" else f"{case.name}.yaml")
        return [*(word.format(shared=self.shared) for word in case.words), "--config", str(config)]

    def reference(self, case: Case) -> tuple[Run, Path]:
        """Return the uninterrupted run and the folder that it left.

        Raises:
            RuntimeError: It failed.
        """
        if case.name not in self.references:
            folder = self.set_up(case)
            run = self.run(case)
            if run.code != 0:
                raise RuntimeError(f"the uninterrupted run of {case.name} failed: {run.output[-3000:]}")
            kept = self.folder / "references" / case.name
            shutil.copytree(folder, kept)
            self.references[case.name] = run, kept
        return self.references[case.name]


def by_name(name: str) -> Case:
    """Return the case of this name."""
    return next(case for case in CASES if case.name == name)
