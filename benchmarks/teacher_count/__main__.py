"""How many teachers does it take? LAEs from 1,008 teachers to none, then the same end-to-end training of everything.

    python -m benchmarks.teacher_count --build FOLDER [--teachers 0 16 63 252 1008] [--seeds 0 1 2] [--people 4800]
    python -m benchmarks.teacher_count --build FOLDER --figure curves.png [--people 4800] [--images 6]

FOLDER is the scratch folder of `python -m miniature build`: latents, embeddings, and teachers, of validation people for
every run, of training people for runs whose LAE starts from some. A run takes its LAE from principal components of so
many teachers, or untrained, and trains LAE, MIF and DiT by `train-teacher-free`'s own objective. Measured are
validation people: teacher recovery while training, likeness and prompt fidelity of generated images at the end, core
seconds with all evaluations. Runs resume; each writes result.json and checkpoint.safetensors, which
`benchmarks.identity` measures on held-out people, in FOLDER/teacher_count/<name>.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.teacher_count.arguments import FIGURE_DEFAULTS, read_arguments
from benchmarks.teacher_count.curves import PEOPLE_PER_STEP, RESULTS, curve, progress, results, table
from difflora_core.autoencoder.model import LAE
from difflora_core.config import DiffLoRAConfig, EncoderNames
from difflora_core.denoiser.config import MIFConfig, SamplingConfig
from difflora_core.denoiser.model import Denoiser
from difflora_core.denoiser.sampling import sample
from difflora_core.files import replacing
from difflora_core.model import DiffLoRA
from miniature.base_model.checkpoint import load_checkpoint
from miniature.base_model.config import lora_layout
from miniature.base_model.model import Tokenizer
from miniature.comfyui.host import find_tokenizer
from miniature.measure.lora_evaluation import LoRAEvaluation, open_evaluation
from miniature.paths import DIFFLORA_CHECKPOINT, WEIGHTS
from miniature.personal.embeddings import load_conditions, load_conditions_of
from miniature.personal.person_images import diffusion_loss, draw_person_images, training_person_images
from miniature.personal.train import DIT_CONFIG, LAE_CONFIG, SAMPLING_PEOPLE
from miniature.world.drawing import REFERENCES
from training.base_model.person_images import PersonImages
from training.base_model.teacher_recovery import TeacherRecovery
from training.dreambooth.train import shared_start
from training.end_to_end.command import trainable_denoiser
from training.end_to_end.config import JointTraining
from training.end_to_end.joint_objective import JointNetwork, JointObjective
from training.end_to_end.joint_start import FITTED_DEVIATION, start_from_conditions
from training.end_to_end.train import train_joint
from training.engine.charts import draw_panels
from training.engine.config import EvaluationConfig, TrainConfig
from training.people.assembly import assemble
from training.people.conditions import Conditions
from training.store.lora_store import LoRAStore

SAVE_EVERY = 100
SAMPLED = {
    "plain": SamplingConfig(1, 1.0, samples=4),
    "scale 1.25": SamplingConfig(1, 1.0, samples=4, latent_scale=1.25),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    teachers: int
    """That the LAE starts from; 0 is an untrained one."""
    seed: int
    """Of which teachers they are, of untrained weights and of the training."""
    people: int
    """With images and embeddings."""
    images: int
    """Of each of them, at most."""
    steps: int
    """Of the training."""
    lora_penalty: float
    """See `JointTraining`."""

    @property
    def name(self) -> str:
        """Its folder."""
        penalty = f"_penalty_{self.lora_penalty:g}" if self.lora_penalty else ""
        data = f"teachers_{self.teachers}_people_{self.people}_images_{self.images}"
        return f"{data}_steps_{self.steps}{penalty}_seed_{self.seed}"

    @property
    def training(self) -> JointTraining:
        """How everything is trained."""
        return JointTraining(
            TrainConfig(
                steps=self.steps,
                learning_rate=1.5e-4,
                warmup=50,
                weight_decay=0.02,
                ema=0.995,
                save_every=SAVE_EVERY,
                seed=self.seed,
                unused_parameters=True,
            ),
            EvaluationConfig(interval=max(1, self.steps // 6), monitor="teacher_recovery"),
            people=PEOPLE_PER_STEP,
            lora_penalty=self.lora_penalty,
        )


@dataclass
class Laboratory:
    """Everything that all runs share: base model, people's images and embeddings, validation people."""

    build: Path
    """Scratch folder of the miniature's build."""

    def __post_init__(self) -> None:
        self.layout, self.tokenizer = lora_layout(), Tokenizer(find_tokenizer())
        self.base, self.vae = load_checkpoint(WEIGHTS)
        self.base.requires_grad_(False)
        self.store = LoRAStore(self.build / "teachers", self.layout)
        teachers, self.with_teachers = self.store.read("validation")
        self.teachers, self.validation = teachers[:SAMPLING_PEOPLE], self.with_teachers[:SAMPLING_PEOPLE]

    @cached_property
    def recovery(self) -> TeacherRecovery:
        """Of the validation people, on images that nothing was trained on."""
        images = draw_person_images(self.vae, self.validation)
        return TeacherRecovery(diffusion_loss(self.base, self.tokenizer), images, self.teachers)

    @cached_property
    def evaluation(self) -> LoRAEvaluation:
        """Generates and measures images of the validation people."""
        return open_evaluation(WEIGHTS, find_tokenizer(), self.validation)

    @cached_property
    def references(self) -> tuple[Tensor, Tensor]:
        """Face and image embeddings (people, width) of the validation people."""
        path = self.build / "conditions" / "validation.safetensors"
        face, image = load_conditions_of(path, self.with_teachers).first(REFERENCES)
        return face[:SAMPLING_PEOPLE], image[:SAMPLING_PEOPLE]

    def objective(self, run: Run, network: JointNetwork, conditions: Conditions, people: list[int]) -> JointObjective:
        """Make the loss of a run."""
        everybody = training_person_images(self.build)
        images = [everybody[index] for index in people]
        few = [
            PersonImages.complete(own.name, own.latents[: run.images], own.text_rows[: run.images]) for own in images
        ]
        loss = diffusion_loss(self.base, self.tokenizer, images_per_person=1, seed=run.seed)
        return JointObjective(network, conditions, few, loss, run.training)

    def conditions(self, run: Run) -> tuple[Conditions, list[int]]:
        """Embeddings of a run's people, and who they are."""
        found, order = load_conditions(self.build / "conditions" / "all_people.safetensors")
        kept = slice(run.people), slice(run.images)
        return Conditions(found.face[kept], found.image[kept]), order[: run.people].tolist()

    def lae(self, run: Run) -> LAE:
        """Make the LAE that a run starts from."""
        lae, generator = LAE(self.layout, LAE_CONFIG), torch.Generator().manual_seed(run.seed)
        if run.teachers:
            loras, _ = self.store.read("train")
            if len(loras) < run.teachers:
                raise ValueError(
                    f"{self.store.folder} holds {len(loras)} training people's teachers, of which "
                    f"{run.teachers} are wanted: train them first (python -m miniature build teachers)."
                )
            lae.fit(loras.roll(-run.seed * run.teachers, 0)[: run.teachers])  # other teachers for every seed
        else:
            lae.start_without_loras(shared_start(self.layout), run.training.start_deviation, generator)
        return lae

    def measure(self, lae: LAE, denoiser: Denoiser) -> dict[str, dict[str, float]]:
        """Likeness and fidelity of the validation people's images, by setting of the sampling."""
        dit, (condition, _) = denoiser.dit, denoiser.mif(*self.references)
        shape, found = (dit.config.tokens, dit.config.latent_width), {}
        for name, sampling in SAMPLED.items():
            latents = sample(dit, condition, denoiser.mif.null, shape, sampling, torch.Generator().manual_seed(0))
            found[name] = self.evaluation.evaluate(lae.decode(latents))
        return found


def train(laboratory: Laboratory, run: Run) -> Path:
    """Do a run, or go on with it; return its result's file."""
    folder = laboratory.build / RESULTS / run.name
    path = folder / "result.json"
    if path.exists():
        return path
    torch.manual_seed(run.seed)
    conditions, people = laboratory.conditions(run)
    mif = MIFConfig(conditions.face.shape[-1], conditions.image.shape[-1], DIT_CONFIG.condition_width)
    network = JointNetwork(Denoiser(DIT_CONFIG, mif), laboratory.lae(run))
    generator, deviation = torch.Generator().manual_seed(run.seed), FITTED_DEVIATION if run.teachers else 1.0
    start_from_conditions(network.denoiser, *conditions.first(REFERENCES), generator, deviation)
    objective = laboratory.objective(run, network, conditions, people)
    with core_seconds(folder / "core_seconds.json"):
        history = train_joint(
            network, objective, laboratory.references, laboratory.recovery, run.training, folder, "run"
        )
    with torch.no_grad():
        measured = laboratory.measure(network.lae, network.denoiser)
    write_checkpoint(folder, network)
    seconds = json.loads((folder / "core_seconds.json").read_text("utf-8"))
    result = {"run": asdict(run), "core_seconds": seconds, "images": measured, "history": history}
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=1), "utf-8")
    return path


def write_checkpoint(folder: Path, network: JointNetwork) -> None:
    """Write a run's networks as a checkpoint that samples as the run was measured."""
    encoders, sampling = EncoderNames("miniature", "miniature"), SAMPLED["plain"]
    lae, denoiser = network.lae, network.denoiser
    config = DiffLoRAConfig(lae.config, denoiser.dit.config, denoiser.mif.config, encoders, sampling)
    assemble(lae, denoiser, config).save(folder / "checkpoint.safetensors")


@contextmanager
def core_seconds(path: Path) -> Iterator[None]:
    """Add the processor time of what is done inside to a number in a file, also when it is interrupted."""
    before, start = json.loads(path.read_text("utf-8")) if path.exists() else 0.0, time.process_time()
    try:
        yield
    finally:
        with replacing(path) as partial:
            partial.write_text(json.dumps(before + time.process_time() - start), "utf-8")


def baselines(laboratory: Laboratory) -> dict[str, dict[str, float]]:
    """Measure no LoRA, the teachers and the shipped checkpoint on the same people."""
    shipped, nothing = DiffLoRA.load(DIFFLORA_CHECKPOINT), torch.zeros_like(laboratory.teachers)
    found = {
        "none": laboratory.evaluation.evaluate(nothing),
        "teacher": laboratory.evaluation.evaluate(laboratory.teachers),
    }
    with torch.no_grad():
        measured = laboratory.measure(shipped.lae, trainable_denoiser(shipped))
    return found | {f"shipped, {name}": metrics for name, metrics in measured.items()}


def main() -> None:
    """Do what the command line asks for."""
    arguments = read_arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    if arguments.figure:
        shown = {name: getattr(arguments, name) for name in FIGURE_DEFAULTS}
        found = [
            result
            for result in results(arguments.build)
            if all(result["run"][name] in values for name, values in shown.items())
        ]
        if not found:
            raise SystemExit(f"No run of {shown} is finished in {arguments.build / RESULTS}: first without --figure.")
        # Of two numbers of teachers the table says more
        several = len({result["run"]["teachers"] for result in found}) > 2
        draw_panels(arguments.figure, [progress(found), *([curve(found)] if several else [])])
    elif arguments.baselines:
        print(json.dumps(baselines(Laboratory(arguments.build)), indent=1))
    else:
        laboratory = Laboratory(arguments.build)
        for seed, teachers, people, images, penalty in product(
            arguments.seeds, arguments.teachers, arguments.people, arguments.images, arguments.lora_penalty
        ):
            train(laboratory, Run(teachers, seed, people, images, arguments.steps, penalty))
    print(table(results(arguments.build)))


if __name__ == "__main__":
    main()
