"""The example workflows in workflows/, which `python -m miniature workflows` writes.

Each works with the miniature and with SDXL: only the names in the loaders change.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from difflora_core.denoiser.config import SamplingConfig
from miniature.paths import ROOT

from .workflow_builder import WITHOUT_HAT, WorkflowBuilder

FOLDER = ROOT / "workflows"
FOR_SDXL = (
    "**For real SDXL** choose your models in *Load Checkpoint*, *Load DiffLoRA*, *Load Face Analysis* and *Load CLIP "
    "Vision*, and set the empty latent to 1024 × 1024."
)


def portrait(builder: WorkflowBuilder, names: Sequence[str], title: str, text: str, file: str) -> None:
    """Generate an image from references, and save the LoRA."""
    graph, count = builder.graph, len(names)
    left = 600 if count > 1 else 320
    height = max(1200, 60 + 350 * count)
    graph.group("1 · Reference images", (-40, 10), (left, height))
    graph.group("2 · Encode the person", (left - 20, 10), (380, height))
    graph.group("3 · Make the LoRA", (left + 380, 10), (380, height))
    graph.group("4 · Use it like any LoRA", (left + 780, 10), (840, height))
    graph.note(title, (-40, -230), (left + 400, 220), f"# {title}\n{text}")
    images = builder.references(names, -20, 90, [f"Reference {n + 1}" for n in range(count)])
    features = builder.encode(images, builder.load_encoders(left, 90), left, 330)
    graph.note(
        "Encoders",
        (left, 880),
        (340, 190),
        "**Two encoders process every image.** InsightFace finds the face and embeds it; CLIP vision "
        "embeds the whole image.\n\n" + FOR_SDXL,
    )
    model = builder.load_difflora(left + 400, 80)
    lora = builder.decode(model, builder.sample_latent(model, features, left + 400, 330), left + 400, 850)
    graph.add("SaveLoRA", "Save LoRA", (left + 400, 950), (340, 82), lora=lora, prefix=f"loras/{file}", steps=0)
    graph.note(
        "The LoRA",
        (left + 400, 1080),
        (340, 110),
        "The result is an ordinary LoRA: *Save LoRA* puts it where *Load LoRA* lists it, under names every "
        "SDXL program reads.",
    )
    base = builder.load_base_model(left + 800, 90)
    builder.generate_image(base, builder.apply(base, lora, left + 800, 240), left + 800, 480, file)
    graph.note(
        "Compare",
        (left + 1200, 740),
        (420, 130),
        "Set the strength in *Apply LoRA* to 0 for the image without the person. It is the same image, "
        "bit for bit, as without the node.",
    )


def several_images(builder: WorkflowBuilder) -> None:
    """Three references, one portrait: the workflow of the demo."""
    names = [f"reference_{number}.png" for number in (1, 2, 3)]
    text = (
        "The workflow makes an ordinary **LoRA** from reference images in about a second, and generates the image on "
        "the right with it. Nothing is trained for the person.\n\n"
        "1. choose images of one person (one is enough, three are more reliable)\n"
        "2. write a prompt with the class word, here *a portrait of a person*\n3. run"
    )
    portrait(builder, names, "DiffLoRA: a portrait without training", text, "difflora_portrait")


def one_image(builder: WorkflowBuilder) -> None:
    """One reference, one portrait: the shortest workflow."""
    text = (
        "The shortest workflow: **one image** of a person, one LoRA, one portrait. More references are more "
        "reliable: see *difflora_portrait*."
    )
    portrait(builder, ["reference_1.png"], "DiffLoRA: one image is enough", text, "difflora_one_picture")


def blend(builder: WorkflowBuilder) -> None:
    """Two people mixed in latent space."""
    graph, model = builder.graph, builder.load_difflora(720, 80)
    graph.group("1 · Two people", (-40, 10), (340, 820))
    graph.group("2 · Encode the person", (320, 10), (360, 1340))
    graph.group("3 · Blend two latents", (700, 10), (380, 1720))
    graph.group("4 · An image of the blend", (1100, 10), (840, 1720))
    graph.note(
        "Blend",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: blend two people\nBoth latents lie in one space, so a point between them is a LoRA of "
        "a person who looks like both. *amount* 0 is the first person, 1 the second; *latent_scale* above 1 "
        "exaggerates what sets the result apart from the average.",
    )
    encoders = builder.load_encoders(340, 90)
    latents = []
    for row, who in enumerate((" A", " B")):
        image = builder.references([f"reference_{row + 1}.png"], -20, 90 + 370 * row, [f"Person{who}"])
        features = builder.encode(image, encoders, 340, 310 + 530 * row, who)
        latents.append(builder.sample_latent(model, features, 720, 330 + 520 * row, who))
    mixed = graph.add(
        "DiffLoRABlend", "Blend Latents", (720, 1370), (340, 150), first=latents[0], second=latents[1], amount=0.5
    )[0]
    lora = builder.decode(model, mixed, 720, 1580)
    base = builder.load_base_model(1120, 90)
    builder.generate_image(base, builder.apply(base, lora, 1120, 240), 1120, 480, "difflora_blend")


def candidates(builder: WorkflowBuilder) -> None:
    """Several LoRAs, ranked by the faces they make."""
    graph = builder.graph
    graph.group("1 · Reference images", (-40, 10), (320, 1200))
    graph.group("2 · Encode the person", (300, 10), (360, 1200))
    graph.group("3 · Four candidates", (680, 10), (380, 1200))
    graph.group("4 · An image of each, and the best", (1080, 10), (860, 1200))
    graph.note(
        "Candidates",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: candidates ranked by likeness\nEvery sampled LoRA is a little different. *Sample LoRA* samples "
        "**four**, all nodes after it run once for each, and *Pick Best Candidate* keeps the LoRA whose "
        "image is most similar to the references. With samples = 1 the candidates differ most.",
    )
    image = builder.references(["reference_1.png"], -20, 90, ["Reference 1"])
    encoders = builder.load_encoders(320, 90)
    model = builder.load_difflora(700, 80)
    latent = builder.sample_latent(model, builder.encode(image, encoders, 320, 330), 700, 330, candidates=4, samples=1)
    lora = builder.decode(model, latent, 700, 850)
    base = builder.load_base_model(1100, 90)
    made = builder.generate_image(base, builder.apply(base, lora, 1100, 240), 1100, 480, "difflora_candidates")
    best = graph.add(
        "DiffLoRAPickBest",
        "Pick Best Candidate",
        (1500, 740),
        (420, 190),
        loras=lora,
        images=made,
        references=image,
        face_analysis=encoders[0],
    )
    graph.add("PreviewImage", "Best", (1500, 980), (200, 210), images=best[1])
    graph.add("DiffLoRASave", "Save the best", (1720, 980), (200, 150), lora=best[0], filename_prefix="difflora_best")


def save_and_load(builder: WorkflowBuilder) -> None:
    """The LoRA as a file, used by ComfyUI's own loader."""
    graph = builder.graph
    graph.group("1 · Make the LoRA and save it", (-40, 10), (1080, 1200))
    graph.group("2 · Use it like any LoRA file", (1080, 10), (860, 1200))
    graph.note(
        "Save",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: save, then use anywhere\nThe left half writes a LoRA file with metadata about how it was "
        "made. The right half is plain ComfyUI: *Load LoRA* reads the file, as any other program would. "
        "Run once, then choose the file you saved in *Load LoRA*; the left half can be deleted.",
    )
    image = builder.references(["reference_1.png"], -20, 90, ["Reference 1"])
    model = builder.load_difflora(680, 80)
    features = builder.encode(image, builder.load_encoders(300, 90), 300, 330)
    lora = builder.decode(model, builder.sample_latent(model, features, 680, 330), 680, 850)
    graph.add(
        "DiffLoRASave",
        "Save LoRA",
        (680, 950),
        (340, 160),
        lora=lora,
        filename_prefix="difflora_saved",
        folder="models/loras",
    )
    base = builder.load_base_model(1100, 90)
    loaded = graph.add(
        "LoraLoader",
        "Load LoRA",
        (1100, 240),
        (360, 126),
        model=base[0],
        clip=base[1],
        lora_name="difflora_saved_00001_.safetensors",
        strength_model=1.0,
        strength_clip=0.0,
    )
    builder.generate_image((base[0], loaded[1], base[2]), loaded[0], 1100, 480, "difflora_save_and_load")


OF_TWO = (0.8, 1.0)
"""Strengths of the person's LoRA and of the second one beside it: at full strength the person's hair comes through the
hat. Chosen on images of validation people."""


def controlnet(builder: WorkflowBuilder) -> None:
    """A person's LoRA together with a ControlNet and with another LoRA."""
    graph = builder.graph
    graph.group("1 · Reference images", (-40, 10), (320, 1620))
    graph.group("2 · Encode the person", (300, 10), (360, 1620))
    graph.group("3 · Make the LoRA", (680, 10), (380, 1620))
    graph.group("4 · Pose: edges of any image", (1080, 10), (360, 1620))
    graph.group("5 · Both, and another LoRA", (1460, 10), (860, 1620))
    graph.note(
        "Together",
        (-40, -210),
        (720, 200),
        "# DiffLoRA: with ControlNet and a second LoRA\nThe person is an ordinary **LoRA**, so it works with whatever "
        "works with LoRAs. Here a *ControlNet* takes pose and expression from the edges of another image, and a "
        "**second LoRA** adds a blue beanie, which this base model cannot draw by prompt.\n\n" + FOR_SDXL,
    )
    image = builder.references(["reference_1.png"], -20, 90, ["Reference 1"])
    model = builder.load_difflora(700, 80)
    features = builder.encode(image, builder.load_encoders(320, 90), 320, 330)
    lora = builder.decode(model, builder.sample_latent(model, features, 700, 330), 700, 850)
    pose = builder.references(["pose.png"], 1100, 90, ["Pose"])
    control = builder.load_control(pose, 1100, 450)
    graph.note(
        "Edges",
        (1100, 1060),
        (320, 190),
        "Edges show a face as well as a pose. With *strength* and *end_percent* in **Apply ControlNet** low, the LoRA "
        "decides whose face it is.\n\nFor SDXL take a Canny ControlNet or Control-LoRA, and the Canny node's own "
        "thresholds.",
    )
    base = builder.load_base_model(1480, 90)
    own = builder.apply(base, lora, 1480, 240, OF_TWO[0])
    both = graph.add(
        "LoraLoaderModelOnly",
        "Second LoRA",
        (1480, 480),
        (360, 82),
        model=own,
        lora_name="miniature_blue_beanie.safetensors",
        strength_model=OF_TWO[1],
    )[0]
    builder.generate_image(base, both, 1480, 620, "difflora_controlnet", WITHOUT_HAT, control)


WORKFLOWS: dict[str, Callable[[WorkflowBuilder], None]] = {
    "difflora_one_picture": one_image,
    "difflora_portrait": several_images,
    "difflora_blend": blend,
    "difflora_candidates": candidates,
    "difflora_save_and_load": save_and_load,
    "difflora_controlnet": controlnet,
}


def personalize(builder: WorkflowBuilder) -> None:
    """The subgraph: images and MODEL to MODEL and LORA_MODEL."""
    graph = builder.graph
    images, base = graph.input("images", "IMAGE"), graph.input("model", "MODEL")
    model = builder.load_difflora(380, 80)
    features = builder.encode(images, builder.load_encoders(0, 90), 0, 330)
    lora = builder.decode(model, builder.sample_latent(model, features, 380, 330), 380, 850)
    graph.expose("model", builder.apply((base,), lora, 760, 90))
    graph.expose("lora", lora)


def write_workflows(object_info: Mapping[str, Any], sampling: SamplingConfig, folder: Path = ROOT) -> None:
    """Write every example workflow, and the subgraph blueprint, with the sampling the shipped checkpoint recommends."""
    for name, make in WORKFLOWS.items():
        builder = WorkflowBuilder(object_info, sampling)
        make(builder)
        builder.graph.save(folder / "workflows" / f"{name}.json")
    builder = WorkflowBuilder(object_info, sampling)
    personalize(builder)
    description = "Makes a LoRA of the person in the reference images, and applies it to the model."
    builder.graph.save_subgraph(folder / "subgraphs" / "Personalize.json", "DiffLoRA", description)
