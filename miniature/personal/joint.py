"""The last part of stage `difflora`: LAE, MIF and DiT learn together by the base model's diffusion loss.

MIF and DiT alone come no further than the frozen LAE's decoder lets them. Two more runs are for what is small in an
image, and what the first one hardly learns: the color of eyes, freckles and beards. The last one has more teachers in
each batch, for the LAE, which encodes them worse after the runs before.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from difflora_core.autoencoder.model import LAE
from difflora_core.denoiser.model import Denoiser
from miniature.base_model.model import Tokenizer
from miniature.base_model.train import EYES_AND_FACE, LittleNoise, PlaceWeights
from training.end_to_end.config import JointTraining
from training.end_to_end.joint_objective import JointNetwork, JointObjective, JointTeachers
from training.end_to_end.train import train_joint
from training.engine.config import EvaluationConfig, TrainConfig
from training.engine.evaluated_run import History, load_best_of_run
from training.engine.processes import in_processes
from training.store.loras import LoRAsInMemory

from .finetune import FinetuneData, load_everybody, load_references
from .person_images import PERSON_EYES, diffusion_loss


@dataclass(frozen=True)
class JointRun:
    """One of the trainings of all three networks."""

    name: str
    """Of its state in the build folder."""
    config: JointTraining
    places: PlaceWeights = PERSON_EYES
    little_noise: LittleNoise | None = None
    """None: timesteps are drawn from all 1,000 alike."""


def _config(seed: int, steps: int = 3000, learning_rate: float = 2e-4, teachers: int = 2) -> JointTraining:
    loop = TrainConfig(
        steps=steps,
        learning_rate=learning_rate,
        warmup=50,
        weight_decay=0.02,
        ema=0.998,
        save_every=100,
        seed=seed,
        unused_parameters=True,
    )
    return JointTraining(loop, EvaluationConfig(interval=500, monitor="teacher_recovery"), people=16, teachers=teachers)


JOINT_RUNS = (
    JointRun("difflora_joint", _config(seed=1)),
    JointRun("difflora_detail", _config(seed=2), EYES_AND_FACE, LittleNoise(550, 0.8)),
    JointRun(
        "difflora_detail_2", _config(seed=3, steps=4500, learning_rate=4e-4), EYES_AND_FACE, LittleNoise(550, 0.8)
    ),
    JointRun("difflora_teachers", _config(seed=4, steps=2500, teachers=5), EYES_AND_FACE, LittleNoise(550, 0.8)),
)


def train_together_in_processes(
    run: JointRun, denoiser: Denoiser, lae: LAE, build: Path, weights: Path, tokenizer: Path, processes: int
) -> History:
    """Train LAE, MIF and DiT together in place; resumable in the build folder.

    Args:
        run: One of `JOINT_RUNS`.
        denoiser: MIF and DiT.
        lae: The autoencoder; its latents are not standardized anew, since the DiT predicts them.
        build: Scratch folder.
        weights: Folder of what ships.
        tokenizer: Folder of CLIP's tokenizer.
        processes: How many share the work.

    Returns:
        Teacher recovery, and recovery of encoded and decoded teachers, before and at every evaluation.
    """
    network = JointNetwork(denoiser, lae)
    in_processes(_train_together, processes, run, network, build, weights, tokenizer)
    return load_best_of_run(network, build, run.name)


def _train_together(
    _rank: int, _processes: int, run: JointRun, network: JointNetwork, build: Path, weights: Path, tokenizer: Path
) -> None:
    data = FinetuneData.load(build, weights, tokenizer, run.places, run.little_noise)
    conditions, rows = load_everybody(build)
    owners = [rows[index] for index in data.people]
    teachers = JointTeachers(LoRAsInMemory(data.loras), range(len(owners)), owners)
    images = [data.images[index] for index in rows]
    # One image of each person, so that a step has more people
    one_image = diffusion_loss(data.base, Tokenizer(tokenizer), 1, run.config.loop.seed, run.little_noise)
    train_joint(
        network,
        JointObjective(network, conditions, images, one_image, run.config, teachers),
        load_references(build),
        data.recovery,
        run.config,
        build,
        run.name,
        teachers=(data.recovery, data.validation),
        identity={"places": asdict(run.places), "little_noise": run.little_noise and asdict(run.little_noise)},
    )
