"""Train MIF, DiT and LAE together from people's images, without teachers or beside some, into a DiffLoRA checkpoint.

python -m training train-teacher-free --config FILE
accelerate launch -m training train-teacher-free --config FILE    # on several GPUs
"""

import datetime
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from difflora_core.config import DiffLoRAConfig
from difflora_core.denoiser.config import SamplingConfig
from difflora_core.model import DiffLoRA
from training.base_model.loss_reduction import LossReduction
from training.engine.accelerator import close_trackers
from training.engine.evaluated_run import History
from training.engine.step_cost import measure_step
from training.people.assembly import assemble
from training.trainer_command import TrainerCommand

from .inputs import RUN
from .joint_inputs import JointInputs
from .recovery_metrics import sampled_recovery
from .sampling_choice import choose_sampling
from .settings import JointSettings
from .train import train_joint

RESULT = "difflora.safetensors"
MIN_RELATIVE_IMPROVEMENT = 0.01
"""What costlier sampling has to add to the loss reduction to be recommended, as a share of the best one."""


def train(settings: JointSettings) -> Path:
    """Train as the settings say, or resume; return the checkpoint, which the first process writes.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: The parts don't fit together.
    """
    inputs = JointInputs.open(settings)
    evaluation = inputs.loss_reduction()
    history = train_joint(
        inputs.network,
        inputs.objective(),
        inputs.references,
        evaluation,
        settings.training,
        settings.output / RUN,
        "teacher_free",
        inputs.accelerator,
        inputs.teacher_recovery(),
        inputs.identity(),
    )
    close_trackers(inputs.accelerator)
    path = settings.output / RESULT
    if inputs.accelerator.is_main_process:
        trained_model(inputs, evaluation, history).save(path)
        print(f"wrote {path}", flush=True)
    return path


def trained_model(inputs: JointInputs, evaluation: LossReduction, history: History) -> DiffLoRA:
    """Make a DiffLoRA of the trained networks, with the sampling settings that are best for validation people."""
    settings, lae, denoiser = inputs.settings, inputs.network.lae, inputs.network.denoiser
    best = max(metrics[evaluation.metric] for metrics in history.values())

    def evaluate(sampling: SamplingConfig) -> dict[str, float]:
        return {evaluation.metric: sampled_recovery(evaluation, lae, denoiser, inputs.references, sampling)}

    sampling, tried = choose_sampling(
        evaluate, lambda metrics: metrics[evaluation.metric], MIN_RELATIVE_IMPROVEMENT * max(best, 0.0)
    )
    provenance = {
        "people": len(inputs.people),
        "validation_people": len(inputs.validation),
        "date": datetime.date.today().isoformat(),
        "joint_training": json.loads(json.dumps(asdict(settings.training))),
        "history": history,
        "sampling": tried,
    }
    config = DiffLoRAConfig(
        lae.config, denoiser.dit.config, denoiser.mif.config, settings.encoders, sampling, provenance
    )
    return assemble(lae, denoiser, config)


def dry_run(settings: JointSettings) -> Iterator[str]:
    """Describe sizes, then memory and measured speed of a step, with everything that the training needs."""
    training = settings.training
    yield (
        f"a step       {training.people} people, {settings.images_per_person} images of each, in a process"
        f"{f'; {training.teachers} of the LoRAs are teachers' if training.teachers else ''}\n"
        f"steps        {training.loop.steps:,}"
    )
    inputs = JointInputs.open(settings, trackers=False)
    frozen = {"U-Net": inputs.base.unet}
    yield str(measure_step(inputs.network, inputs.objective(), training.loop, training.people, frozen=frozen))


COMMAND = TrainerCommand(JointSettings, "training/recipes/*/*_train_teacher_free.yaml", dry_run, train)
add_arguments = COMMAND.add_arguments
