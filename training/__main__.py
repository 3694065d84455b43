"""Command line of the trainers: `python -m training <command> …`."""

import argparse
import importlib
import sys

from difflora_core.command_line import interruptible, run_command

COMMANDS = {
    "plan": (
        ".recipes.planning.plan",
        "what a recipe will cost: images, disk, memory, hours; needs no model, store or GPU",
    ),
    "pilot": (".recipes.pilot_command", "find the teachers' settings on a few people, and write them into the recipe"),
    "run": (".recipes.run", "all steps of a recipe, from a folder of faces to a checkpoint"),
    "import": (".recipes.teachers", "existing LoRAs into a recipe, in place of training one of each person"),
    "dataset": (".lora_dataset.command", "from a folder of faces to a store of LoRAs"),
    "embed": (".people.embed", "people's images to the frozen encoders' embeddings"),
    "train-lae": (".autoencoder.command", "the LoRA autoencoder on a store of LoRAs: one file"),
    "train-difflora": (".denoiser.command", "MIF and DiT on the LAE's latents: one DiffLoRA checkpoint"),
    "finetune": (".end_to_end.command", "LAE, or MIF and DiT, end to end with the base model's diffusion loss"),
    "train-teacher-free": (
        ".end_to_end.joint_command",
        "MIF, DiT and LAE together from images alone: one DiffLoRA checkpoint",
    ),
    "evaluate": (".evaluation.command", "methods compared by the same people, prompts and metrics: one report"),
    "toy-experiment": (".toy_experiment.experiment", "are LoRA weights easier to compress than full weight changes?"),
}
"""Command → the module that offers `add_arguments(parser)`, which sets the parser's default `run`, and a line of help.
Only the module of the given command is imported: most of them bring heavy libraries."""
ORDER = """in order:
  plan → run                                      a recipe, all at once
  dataset all → train-lae → finetune → embed → train-difflora → finetune         with teachers, step by step
  dataset images → embed → train-teacher-free                                    without teachers
  evaluate                                        the checkpoint, beside other methods

docs/training.md explains each step; --help after a command, and after a stage of dataset, its options."""
"""Of the steps, below the help."""
HINT = "; the same command resumes from here"
"""Said after an interruption."""


def main() -> int:
    """Parse the command line and run it; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train what DiffLoRA needs.",
        epilog=ORDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    given = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == given:
            with interruptible(HINT):
                importlib.import_module(module, __package__).add_arguments(command)
    return run_command(parser, hint=HINT)


if __name__ == "__main__":
    sys.exit(main())
