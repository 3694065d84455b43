"""The example workflows in workflows/, which `python -m miniature workflows` writes.

Each works with the miniature and with SDXL: a note says what to change for it. The names of the files are the titles
that ComfyUI's Templates show, in letters, digits and hyphens, which are all that the page takes in an address
(`/?template=…`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from difflora_core.denoiser.config import SamplingConfig
from miniature.paths import ROOT

from .personalize_subgraph import person_lora, personalize
from .workflow_builder import OTHER_PROMPT, SIDE, SIDE_OF_GUIDANCE, WITH_BLUE_BEANIE, WorkflowBuilder
from .workflow_graph import Output, WorkflowGraph

FOLDER = ROOT / "workflows"
REFERENCES = ("reference_1.png", "reference_2.png", "reference_3.png")
"""Example images of one person."""
OTHER_PERSON, POSE = "other_person.png", "pose.png"
"""Example images of another person, and of a pose."""
STRENGTH_BESIDE_HAT, HAT_STRENGTH = 0.8, 1.2
"""Of the person's LoRA and of the LoRA of a hat where both act: with a hat at 1.0 red hair shows through it as green
patches, at 1.3 likeness is lower. Chosen on images of twelve validation people."""
GREEN = "Green nodes are yours to change. Then *Run*."
FOR_SDXL = (
    "Choose your models in the loaders, 1024 × 1024 in *Empty Latent Image*, 1 in *Enlarge*, 30 steps and cfg 5 in "
    "*KSampler*."
)
TO_TRAIN = "No checkpoint for SDXL is published: docs/training.md says how to train one."
OTHER_SHAPES = (
    "Pictures of another shape are cropped to the first one's. For photographs of any size put *Load Reference Images "
    "from Folder* in place of the pictures and of *Pictures 1 to …*."
)
"""ComfyUI's node that makes images one batch scales each to the first one's size, and crops what is over."""


def one_picture(builder: WorkflowBuilder) -> None:
    """One reference, one portrait: the shortest workflow."""
    graph = builder.graph
    graph.group("Your picture")
    graph.note("Start here", f"**One picture of a person** becomes a LoRA, and a portrait with it.\n\n{GREEN}")
    image = builder.load_image("Your picture", REFERENCES[0])
    graph.group("The person as a LoRA")
    base = builder.load_base_model()
    model, lora = personalize(graph.object_info, builder.sampling).add_to(
        graph, "Personalize (your strength)", images=image, model=base[0]
    )
    builder.save_lora(lora, "one_picture")
    graph.note("With SDXL", f"{FOR_SDXL} {TO_TRAIN}")
    builder.show_image(builder.generate_image(base, model), base[2], "one_picture", beside=True)


def encode_pictures(builder: WorkflowBuilder, text: str) -> Output:
    """Add three references and their features, the LoRA from them, and a note; return the LoRA."""
    graph = builder.graph
    graph.group("Your pictures")
    images = [builder.load_image(f"Your picture {number}", name) for number, name in enumerate(REFERENCES, start=1)]
    graph.group("Encode the person")
    graph.note("What this does", f"{text}\n\n{GREEN}\n\n{OTHER_SHAPES}")
    features = builder.encode_person(builder.batch(images))
    graph.group("Make the LoRA")
    return builder.make_lora(features)


def several_pictures(builder: WorkflowBuilder) -> None:
    """Three references, one portrait, every step a node: the workflow of the demo."""
    graph = builder.graph
    lora = encode_pictures(builder, "**Several pictures** of a person make the LoRA more reliable than one.")
    graph.group("Apply it")
    builder.save_lora(lora, "several_pictures")
    base = builder.load_base_model()
    model = builder.apply(base, lora)
    graph.note("With SDXL", f"{FOR_SDXL} {TO_TRAIN}")
    builder.show_image(builder.generate_image(base, model), base[2], "several_pictures")


def compare(strengths: str, text: str, name: str) -> Callable[[WorkflowBuilder], None]:
    """Make a workflow that shows one image for each strength, side by side."""

    def build(builder: WorkflowBuilder) -> None:
        graph = builder.graph
        lora = encode_pictures(builder, text)
        graph.note("With SDXL", FOR_SDXL)
        graph.group("Your strengths and prompt")
        base = builder.load_base_model()
        inputs = {"model": base[0], "lora": lora, "strengths": strengths, "side": SIDE_OF_GUIDANCE}
        models, labels = graph.add_yours("DiffLoRAApplyStrengths", "Your strengths", **inputs)
        samples = builder.sample_image(models, builder.prompts(base[1]))
        builder.show_grid(samples, base[2], labels, name)

    return build


def blend(builder: WorkflowBuilder) -> None:
    """Two people mixed in latent space."""
    graph = builder.graph
    graph.group("Two people and the encoders")
    graph.note("What this does", f"**Two people** are blended. *amount* 0 is A, 1 is B.\n\n{GREEN}")
    people = [
        (f" {letter}", builder.load_image(f"Your picture {letter}", name))
        for letter, name in (("A", REFERENCES[0]), ("B", OTHER_PERSON))
    ]
    encoders = builder.load_encoders()
    graph.group("Encode both")
    features = [builder.encode(image, encoders, who) for who, image in people]
    graph.group("Models and mixed features")
    base, model = builder.load_base_model(), builder.load_difflora()
    mixed = [builder.mix(model, own, who) for (who, _), own in zip(people, features, strict=True)]
    graph.note("With SDXL", FOR_SDXL)
    graph.group("Blend two LoRAs")
    latents = [builder.sample_latent(model, own, who) for (who, _), own in zip(people, mixed, strict=True)]
    both = graph.add_yours("DiffLoRABlend", "Your blend", first=latents[0], second=latents[1], amount=0.5)
    lora = builder.decode(model, both[0])
    graph.group("Your strength and prompt")
    samples = builder.sample_image(builder.apply(base, lora), builder.prompts(base[1]))
    builder.show_image(samples, base[2], "blend")


def save_and_load(builder: WorkflowBuilder) -> None:
    """The LoRA as a file, used by ComfyUI's own loader."""
    graph = builder.graph
    lora = encode_pictures(builder, "The LoRA is saved as **a file**, which *Load LoRA* uses like any other.")
    graph.group("Save it, load it")
    file = builder.save_lora(lora, "saved")
    base = builder.load_base_model()
    loaded = graph.add_yours(
        "LoraLoader",
        "Load LoRA (your strength)",
        model=base[0],
        clip=base[1],
        lora_name=file,
        strength_model=1.0,
        strength_clip=0.0,
    )
    graph.note(
        "Later",
        "Remove the link to *lora_name*, press R, and choose the file. Then everything left of *Load LoRA* can go.",
    )
    graph.note("With SDXL", FOR_SDXL)
    base = (base[0], loaded[1], base[2])
    builder.show_image(builder.generate_image(base, loaded[0]), base[2], "save_and_load")


def controlnet(builder: WorkflowBuilder) -> None:
    """A person's LoRA together with a ControlNet and with another LoRA."""
    graph = builder.graph
    graph.group("Your picture and pose")
    image, pose = builder.load_image("Your picture", REFERENCES[0]), builder.load_image("Your pose", POSE)
    edges = builder.find_edges(pose)
    graph.group("Encode the person")
    graph.note(
        "What this does",
        f"A *ControlNet* takes the pose from the edges of a picture; a **second LoRA** adds a blue beanie.\n\n{GREEN}",
    )
    features = builder.encode_person(image)
    graph.group("Make the LoRA")
    lora = builder.make_lora(features)
    graph.group("Both LoRAs")
    base = builder.load_base_model()
    own = builder.apply(base, lora, STRENGTH_BESIDE_HAT)
    both = graph.add(
        "LoraLoaderModelOnly",
        "Second LoRA",
        model=own,
        lora_name="miniature_blue_beanie.safetensors",
        strength_model=HAT_STRENGTH,
    )[0]
    graph.note(
        "Pose or likeness", "Edges show a face, too: keep *strength* and *end_percent* of *Apply ControlNet* low."
    )
    net = graph.add("ControlNetLoader", "Load ControlNet", control_net_name="miniature_canny.safetensors")[0]
    graph.note("With SDXL", FOR_SDXL)
    graph.group("Your prompt")
    prompts = builder.control(builder.prompts(base[1], WITH_BLUE_BEANIE), net, edges, base[2])
    builder.show_image(builder.sample_image(both, prompts), base[2], "controlnet")


def start_and_end(builder: WorkflowBuilder) -> None:
    """The LoRA in a part of the sampling alone, by ComfyUI's hooks."""
    graph = builder.graph
    lora = encode_pictures(builder, "The LoRA acts in **a part of the sampling**: from *Your start* to *Your end*.")
    graph.note("With SDXL", FOR_SDXL)
    graph.group("Your start and end")
    hooks = builder.hook(builder.save_lora(lora, "start_and_end"), "Your strength")
    hooks = graph.add("SetHookKeyframes", "Start and end", hooks=hooks, hook_kf=builder.keyframes(0.1, 0.9))[0]
    graph.note(
        "Start and end",
        "*start_percent* counts from 0 to 1. A later start leaves the composition to the base model, an earlier end "
        "leaves it the details.",
    )
    graph.group("Your prompt")
    base = builder.load_base_model()
    positive, negative = builder.prompts(base[1])
    prompts = graph.add(
        "PairConditioningSetProperties", "With the LoRA", positive_NEW=positive, negative_NEW=negative, hooks=hooks
    )
    builder.show_image(builder.sample_image(base[0], (prompts[0], prompts[1])), base[2], "start_and_end")


def two_people(builder: WorkflowBuilder) -> None:
    """Two people's LoRAs, each in its half of one image, by ComfyUI's hooks and masks."""
    graph = builder.graph
    graph.group("Two people")
    graph.note("What this does", f"**Two people in one picture**: each LoRA acts in its half alone.\n\n{GREEN}")
    pictures = [
        (f" {side}", builder.load_image(f"Your picture {side}", name))
        for side, name in (("left", REFERENCES[0]), ("right", OTHER_PERSON))
    ]
    graph.group("Their LoRAs")
    subgraph, hooks = person_lora(graph.object_info, builder.sampling), []
    for who, image in pictures:
        (lora,) = subgraph.add_to(graph, f"LoRA{who}", images=image)
        hooks.append(builder.hook(builder.save_lora(lora, "two_people", who), f"Your strength{who}"))
    graph.group("Two halves")
    base = builder.load_base_model()
    left, right = builder.halves(2 * SIDE, SIDE)
    graph.note(
        "With SDXL",
        "Choose your models in the loaders, 1 in *Enlarge*, 30 steps and cfg 5 in *KSampler*. Masks and latent: "
        "2048 × 1024, half 1024 × 1024. *mask bounds* computes each half by itself; with *default* both are parts of "
        "one scene.",
    )
    graph.group("Your prompts")
    own, negative = builder.prompts(base[1])
    other = graph.add_yours("CLIPTextEncode", "Your prompt right", text=OTHER_PROMPT, clip=base[1])[0]
    half = {"strength": 1.0, "set_cond_area": "mask bounds"}
    pair = graph.add(
        "PairConditioningSetProperties",
        "Left half",
        positive_NEW=own,
        negative_NEW=negative,
        mask=left,
        hooks=hooks[0],
        **half,
    )
    both = graph.add(
        "PairConditioningSetPropertiesAndCombine",
        "And right half",
        positive=pair[0],
        negative=pair[1],
        positive_NEW=other,
        negative_NEW=negative,
        mask=right,
        hooks=hooks[1],
        **half,
    )
    graph.group("One image")
    builder.show_image(builder.sample_image(base[0], (both[0], both[1]), 2 * SIDE), base[2], "two_people")


WORKFLOWS: dict[str, Callable[[WorkflowBuilder], None]] = {
    "1-Portrait-from-one-picture": one_picture,
    "2-Portrait-from-several-pictures": several_pictures,
    "3-With-and-without-side-by-side": compare(
        "0, 1", "The same image **without and with** the LoRA.", "with_and_without"
    ),
    "4-Strengths-side-by-side": compare(
        "0, 0.4, 0.7, 1, 1.2, 1.5", "The same image at **six strengths** of the LoRA.", "strengths"
    ),
    "5-Blend-of-two-people": blend,
    "6-Save-and-load-a-LoRA": save_and_load,
    "7-ControlNet-and-a-second-LoRA": controlnet,
    "8-Start-and-end-of-the-effect": start_and_end,
    "9-Two-people-in-one-picture": two_people,
}


def write_workflows(object_info: Mapping[str, Any], sampling: SamplingConfig, folder: Path = ROOT) -> None:
    """Write every example workflow, and the subgraph blueprint, with the sampling the shipped checkpoint recommends."""
    for name, make in WORKFLOWS.items():
        graph = WorkflowGraph(object_info)
        make(WorkflowBuilder(graph, sampling))
        graph.save(folder / "workflows" / f"{name}.json")
    blueprint = WorkflowGraph(object_info)
    blueprint.group("Personalize")
    subgraph = personalize(object_info, sampling)
    subgraph.add_to(blueprint, subgraph.name)
    blueprint.save(folder / "subgraphs" / f"{subgraph.name}.json")
