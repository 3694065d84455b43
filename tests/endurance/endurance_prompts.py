"""What the endurance run sends: prompts with varying seeds, references, strengths and formats, and their order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import numpy as np
from PIL import Image

from miniature.comfyui.api_prompt import ApiPrompt
from miniature.comfyui.workflows import FOLDER
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import CONTROL_SCENES, reference_scene
from training.comfyui_client import Client, Prompt

ROUNDS = 5
"""Between rounds every client waits and the server's memory is measured; 500 prompts are five rounds of a hundred."""
PROBE_ROUNDS = (0, 2, 4)
"""Early, in the middle and at the end: rounds with a copy of every probe."""
PEOPLE, IMAGES_PER_PERSON = split_people("held_out")[20:26], 3
SHORT = {
    "one_picture": "1-Portrait-from-one-picture",
    "portrait": "2-Portrait-from-several-pictures",
    "strengths": "4-Strengths-side-by-side",
    "blend": "5-Blend-of-two-people",
    "save_and_load": "6-Save-and-load-a-LoRA",
    "controlnet": "7-ControlNet-and-a-second-LoRA",
}
"""What the results call the example workflows."""
TEXTS = (
    "a portrait of a person, laughing, wearing a red beanie, blue shirt, yellow background",
    "a portrait of a person, green shirt, gray background",
    "a portrait of a person, neutral, red shirt, blue background",
)
SIZES = (96, 128, 160)
NEVER_DONE = {"KSampler": 10_000, "Refine": 2_000}
"""The most steps that a node allows: such a prompt takes minutes and is interrupted before it ends."""


@dataclass(frozen=True)
class Request:
    """A prompt and how it has to end."""

    kind: str
    """Seconds are compared within one kind."""
    prompt: Prompt
    """In API format."""
    shows: str = ""
    """The node whose images are the result; none if the result is a file."""
    file: str = ""
    """The LoRA file that is the result, below the base directory."""
    error: str = ""
    """Regular expression of the error that is right; empty if the prompt has to succeed."""
    interrupt_after: float | None = None
    """Seconds of execution after which it is interrupted."""
    probe: str = ""
    """Requests with the same name are the same prompt and have to give the same result."""


Job = tuple[Request, ...]
"""Requests that one client sends one after the other."""
MakeJob = Callable[[Random, int], Job]
"""Makes a job from random draws and from a number that no other job has, for the names of files."""


def plan(
    kinds: Sequence[tuple[float, MakeJob]], probes: Sequence[MakeJob], prompts: int, rng: Random
) -> list[list[Job]]:
    """Draw jobs of exactly `prompts` requests in `ROUNDS` rounds.

    Args:
        kinds: Weight and maker of every kind.
        probes: Repeated without a change in each of `PROBE_ROUNDS`; of few prompts they are at most the half.
        prompts: Number of requests of all rounds together.
        rng: Decides everything else than the probes' content.
    """
    weights, makers = zip(*kinds, strict=True)
    rounds, numbers = [], count(1)
    for index in range(ROUNDS):
        left = prompts * (index + 1) // ROUNDS - prompts * index // ROUNDS
        half, jobs = left // 2, []
        for name, make in enumerate(probes if index in PROBE_ROUNDS else ()):
            probe = make(Random(name), next(numbers))
            if sum(map(len, jobs)) + len(probe) <= half:
                jobs.append(tuple(replace(request, probe=f"{name} {request.kind}") for request in probe))
        left -= sum(map(len, jobs))
        while left:
            (make,) = rng.choices(makers, weights)
            jobs.append(make(rng, next(numbers))[:left])
            left -= len(jobs[-1])
        rng.shuffle(jobs)
        rounds.append(jobs)
    return rounds


def upload_images(client: Client) -> None:
    """Put references of several people and poses into the server's input folder."""
    for who, index in enumerate(PEOPLE):
        for number in range(IMAGES_PER_PERSON):
            scene = reference_scene(np.random.default_rng((index, number)))
            client.upload(Image.fromarray(draw(person(index), scene).image), reference(who, number))
    for number, scene in enumerate(CONTROL_SCENES):
        client.upload(Image.fromarray(draw(person(PEOPLE[number % len(PEOPLE)]), scene).image), f"pose_{number}.png")


def reference(who: int, number: int) -> str:
    """Name an uploaded reference image."""
    return f"person_{who}_{number % IMAGES_PER_PERSON}.png"


class Prompts:
    """Makers of prompts that succeed, from the example workflows."""

    def __init__(self, client: Client) -> None:
        """Read the example workflows, and upload the images that they load."""
        info = client.object_info()
        self._workflows = {name: ApiPrompt.load(FOLDER / f"{file}.json", info) for name, file in SHORT.items()}
        upload_images(client)

    def kinds(self) -> list[tuple[float, MakeJob]]:
        """Weights and makers: about how many of 100 jobs are of a kind."""
        shares = {"one_picture": 14, "portrait": 14, "blend": 9, "strengths": 5, "controlnet": 9}
        whole = [(share, self.workflow(name)) for name, share in shares.items()]
        others = [(10, self.save_and_load), (6, self.save), (9, self.refine), (9, self.encode_and_blend)]
        return [*whole, *others, (5, self.similarity), (3, self.interrupted), (2, self.interrupted_refine)]

    def varied(self, name: str, rng: Random) -> ApiPrompt:
        """Return an example workflow with other references, seeds, strengths, sizes and precisions."""
        graph, people = self._workflows[name].copy(), rng.sample(range(len(PEOPLE)), 2)
        precision, size = rng.choices(("fp32", "bf16"), (9, 1))[0], rng.choice(SIZES)
        for node in graph.prompt.values():
            inputs, title = node["inputs"], node["_meta"]["title"]
            match node["class_type"]:
                case "LoadImage" if title == "Your pose":
                    inputs["image"] = f"pose_{rng.randrange(len(CONTROL_SCENES))}.png"
                case "LoadImage":
                    inputs["image"] = reference(people[title == "Your picture B"], rng.randrange(IMAGES_PER_PERSON))
                case "DiffLoRALoad":
                    inputs["precision"] = precision
                case "DiffLoRASample":
                    inputs |= {"seed": rng.randrange(2**63), "settings": "custom"}
                    inputs["latent_scale"] = rng.choice((0.9, 1.0, 1.1))
                case "DiffLoRABlend":
                    inputs["amount"] = rng.randrange(21) / 20
                case "DiffLoRAApply":
                    inputs["strength"] = rng.choice((0.7, 0.85, 1.0))
                case "KSampler":
                    inputs["seed"] = rng.randrange(2**63)
                case "CLIPTextEncode" if title == "Your prompt":
                    inputs["text"] = rng.choice(TEXTS)
                case "EmptyLatentImage":
                    inputs |= {"width": size, "height": size}
        return graph

    def workflow(self, name: str) -> MakeJob:
        """Make jobs of a whole example workflow."""

        def make(rng: Random, _: int) -> Job:
            graph = self.varied(name, rng)
            return (Request(name, graph.prompt, graph.id("Save Image")),)

        return make

    def save_and_load(self, rng: Random, number: int) -> Job:
        """Save a LoRA, then use the file with the core loader."""
        graph, name = self.varied("save_and_load", rng), f"endurance_{number}"
        graph.set("Save LoRA", filename_prefix=name, folder="models/loras", format="kohya")
        graph.set("Load LoRA (your strength)", lora_name=f"{name}_00001_.safetensors")
        saved = Request("save", graph.only("Save LoRA").prompt, file=f"models/loras/{name}_00001_.safetensors")
        return saved, Request("load", graph.only("Save Image").prompt, graph.id("Save Image"))

    def save(self, rng: Random, number: int) -> Job:
        """Save a LoRA in either format."""
        graph, name = self.varied("save_and_load", rng), f"format_{number}"
        graph.set("Save LoRA", filename_prefix=name, folder="output/loras", format=rng.choice(("kohya", "peft")))
        file = f"output/loras/{name}_00001_.safetensors"
        return (Request("save", graph.only("Save LoRA").prompt, file=file),)

    def with_refine(self, rng: Random) -> ApiPrompt:
        """Return a prompt that refines the LoRA and generates an image with it."""
        graph = self.varied("portrait", rng)
        links = {name: graph.output("Load Checkpoint", slot) for slot, name in enumerate(("model", "clip", "vae"))}
        links |= {"lora": graph.output("Decode LoRA"), "images": graph.output("Pictures 1 to 3")}
        settings = {"prompt": "a portrait of a person", "steps": rng.choice((2, 4)), "learning_rate": 1e-3}
        settings |= {"batch_size": 2, "seed": rng.randrange(2**63), "gradient_checkpointing": rng.random() < 0.5}
        graph.add("Refine", "DiffLoRARefine", **links, **settings)
        return graph.set("Your strength", lora=graph.output("Refine"))

    def refine(self, rng: Random, _: int) -> Job:
        """Refine a LoRA before it is applied."""
        graph = self.with_refine(rng)
        return (Request("refine", graph.only("Save Image").prompt, graph.id("Save Image")),)

    def encode_and_blend(self, rng: Random, _: int) -> Job:
        """Decode one person's latent, encode the LoRA again, and blend it with another person's."""
        graph = self.varied("blend", rng)
        model, first = graph.output("Load DiffLoRA"), graph.output("Sample LoRA A")
        graph.add("Decode first", "DiffLoRADecode", model=model, latent=first)
        graph.add("Encode first", "DiffLoRAEncode", model=model, lora=graph.output("Decode first"))
        graph.set("Your blend", first=graph.output("Encode first"), latent_scale=rng.choice((0.8, 1.0)))
        return (Request("encode_and_blend", graph.only("Save Image").prompt, graph.id("Save Image")),)

    def similarity(self, rng: Random, _: int) -> Job:
        """Compare a generated image with the references."""
        graph = self.varied("portrait", rng).set("Your strength", strength=1.0)
        links = {"references": graph.output("Pictures 1 to 3"), "images": graph.output("VAE Decode")}
        links["face_analysis"] = graph.output("Load Face Analysis")
        graph.add("Similarity", "DiffLoRAFaceSimilarity", **links)
        graph.add("Grid", "PreviewImage", images=graph.output("Similarity", 2))
        return (Request("similarity", graph.only("Grid").prompt, graph.id("Grid")),)

    def interrupted(self, rng: Random, _: int) -> Job:
        """Interrupt while an image is sampled with a LoRA."""
        graph = self.varied("one_picture", rng).set("KSampler", steps=NEVER_DONE["KSampler"])
        return (interrupt("interrupted", graph.only("Save Image"), rng),)

    def interrupted_refine(self, rng: Random, _: int) -> Job:
        """Interrupt while a LoRA is trained."""
        graph = self.with_refine(rng).set("Refine", steps=NEVER_DONE["Refine"])
        return (interrupt("interrupted refine", graph.only("Save Image"), rng),)


class CorePrompts(Prompts):
    """Makers of similar prompts without a node of ours: how the memory of the host alone develops."""

    def kinds(self) -> list[tuple[float, MakeJob]]:
        """Weights and makers of a kind."""
        shares = {"one_picture": 40, "controlnet": 20, "portrait": 10, "save_and_load": 20}
        kinds = [(share, self.workflow(name)) for name, share in shares.items()]
        return [*kinds, (5, self.interrupted), (5, self.missing)]

    def varied(self, name: str, rng: Random) -> ApiPrompt:
        """Return what is left of an example workflow without our nodes."""
        graph = super().varied(name, rng)
        match name:
            case "controlnet":
                graph.set("Second LoRA", model=graph.output("Load Checkpoint"))
            case "save_and_load":
                graph.set(
                    "Load LoRA (your strength)",
                    lora_name="miniature_blue_beanie.safetensors",
                    strength_model=rng.random(),
                )
            case _:
                graph.set("KSampler", model=graph.output("Load Checkpoint"))
        return graph.only("Save Image")

    def missing(self, rng: Random, _: int) -> Job:
        """Load an image that is not there."""
        graph = self.varied("controlnet", rng).set("Your pose", image="missing.png")
        return (Request("wrong: missing image", graph.prompt, error="Invalid image file"),)


def interrupt(kind: str, graph: ApiPrompt, rng: Random) -> Request:
    """Interrupt a prompt at a random moment of its first second and a half."""
    return Request(kind, graph.prompt, error="interrupted", interrupt_after=rng.uniform(0.0, 1.5))
