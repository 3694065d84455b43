"""The example workflows in workflows/, drawn by program: `python -m miniature workflows` writes them all.

Each is one graph for the miniature and for SDXL: only the names in the loaders change.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from difflora_core.denoiser.config import SamplingConfig
from miniature.paths import ROOT

from .workflow_pieces import WITHOUT_HAT, Portrait

FOLDER = ROOT / "workflows"
FOR_SDXL = (
    "**For real SDXL** choose your models in *Load Checkpoint*, *Load DiffLoRA*, *Load Face Analysis* and *Load CLIP "
    "Vision*, and set the empty latent to 1024 × 1024."
)


def portrait(pieces: Portrait, names: Sequence[str], title: str, text: str, file: str) -> None:
    """References to one picture, with the LoRA saved."""
    canvas, count = pieces.canvas, len(names)
    left = 600 if count > 1 else 320
    height = max(1200, 60 + 350 * count)
    canvas.group("1 · Who is it?", (-40, 10), (left, height))
    canvas.group("2 · What is to be seen", (left - 20, 10), (380, height))
    canvas.group("3 · Make the LoRA", (left + 380, 10), (380, height))
    canvas.group("4 · Use it like any LoRA", (left + 780, 10), (840, height))
    canvas.note(title, (-40, -230), (left + 400, 220), f"# {title}\n{text}")
    images = pieces.references(names, -20, 90, [f"Reference {n + 1}" for n in range(count)])
    features = pieces.see(images, pieces.encoders(left, 90), left, 330)
    canvas.note(
        "Encoders",
        (left, 880),
        (340, 190),
        "**Two encoders look at every picture.** InsightFace finds the face and describes it; CLIP vision "
        "describes the whole picture.\n\n" + FOR_SDXL,
    )
    model = pieces.load(left + 400, 80)
    lora = pieces.decode(model, pieces.latent(model, features, left + 400, 330), left + 400, 850)
    canvas.add("SaveLoRA", "Save LoRA", (left + 400, 950), (340, 82), lora=lora, prefix=f"loras/{file}", steps=0)
    canvas.note(
        "The LoRA",
        (left + 400, 1080),
        (340, 110),
        "The result is an ordinary LoRA: *Save LoRA* puts it where *Load LoRA* lists it, under names every "
        "SDXL program reads.",
    )
    base = pieces.checkpoint(left + 800, 90)
    pieces.picture(base, pieces.apply(base, lora, left + 800, 240), left + 800, 480, file)
    canvas.note(
        "Compare",
        (left + 1200, 740),
        (420, 130),
        "Set the strength in *Apply LoRA* to 0 for the picture without the person. It is the same picture, "
        "bit for bit, as without the node.",
    )


def several(pieces: Portrait) -> None:
    """Three references, one portrait: the workflow of the demo."""
    names = [f"reference_{number}.png" for number in (1, 2, 3)]
    text = (
        "Reference pictures go in on the left; about a second later an ordinary **LoRA** comes out, and the "
        "pictures on "
        "the right are made with it. Nothing is trained for the person.\n\n"
        "1. choose pictures of one person (one is enough, three are steadier)\n"
        "2. write a prompt with the class word, here *a portrait of a person*\n3. run"
    )
    portrait(pieces, names, "DiffLoRA: a portrait without training", text, "difflora_portrait")


def one_picture(pieces: Portrait) -> None:
    """One reference, one portrait: the shortest road."""
    text = (
        "The shortest road: **one picture** of a person, one LoRA, one portrait. More references make it "
        "steadier: see *difflora_portrait*."
    )
    portrait(pieces, ["reference_1.png"], "DiffLoRA: one picture is enough", text, "difflora_one_picture")


def blend(pieces: Portrait) -> None:
    """Two people mixed in latent space."""
    canvas, model = pieces.canvas, pieces.load(720, 80)
    canvas.group("1 · Two people", (-40, 10), (340, 820))
    canvas.group("2 · What is to be seen", (320, 10), (360, 1340))
    canvas.group("3 · Two latents, mixed", (700, 10), (380, 1720))
    canvas.group("4 · The picture of a relative", (1100, 10), (840, 1720))
    canvas.note(
        "Blend",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: blend two people\nBoth latents lie in one space, so a point between them is a LoRA of "
        "somebody who looks like both. *amount* 0 is the first person, 1 the second; *latent_scale* above 1 "
        "exaggerates what sets the result apart from the average.",
    )
    encoders = pieces.encoders(340, 90)
    latents = []
    for row, who in enumerate((" A", " B")):
        image = pieces.references([f"reference_{row + 1}.png"], -20, 90 + 370 * row, [f"Person{who}"])
        features = pieces.see(image, encoders, 340, 310 + 530 * row, who)
        latents.append(pieces.latent(model, features, 720, 330 + 520 * row, who))
    mixed = canvas.add(
        "DiffLoRABlend", "Blend Latents", (720, 1370), (340, 150), first=latents[0], second=latents[1], amount=0.5
    )[0]
    lora = pieces.decode(model, mixed, 720, 1580)
    base = pieces.checkpoint(1120, 90)
    pieces.picture(base, pieces.apply(base, lora, 1120, 240), 1120, 480, "difflora_blend")


def candidates(pieces: Portrait) -> None:
    """Several LoRAs, ranked by the faces they make."""
    canvas = pieces.canvas
    canvas.group("1 · Who is it?", (-40, 10), (320, 1200))
    canvas.group("2 · What is to be seen", (300, 10), (360, 1200))
    canvas.group("3 · Four candidates", (680, 10), (380, 1200))
    canvas.group("4 · A picture of each, and the best", (1080, 10), (860, 1200))
    canvas.note(
        "Candidates",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: candidates ranked by likeness\nEvery draw is a little different. *Sample LoRA* draws "
        "**four**, everything behind it runs once for each, and *Pick Best Candidate* keeps the LoRA whose "
        "picture is most like the references. With samples = 1 the candidates differ most.",
    )
    image = pieces.references(["reference_1.png"], -20, 90, ["Reference 1"])
    encoders = pieces.encoders(320, 90)
    model = pieces.load(700, 80)
    latent = pieces.latent(model, pieces.see(image, encoders, 320, 330), 700, 330, candidates=4, samples=1)
    lora = pieces.decode(model, latent, 700, 850)
    base = pieces.checkpoint(1100, 90)
    made = pieces.picture(base, pieces.apply(base, lora, 1100, 240), 1100, 480, "difflora_candidates")
    best = canvas.add(
        "DiffLoRAPickBest",
        "Pick Best Candidate",
        (1500, 740),
        (420, 190),
        loras=lora,
        images=made,
        references=image,
        face_analysis=encoders[0],
    )
    canvas.add("PreviewImage", "Best", (1500, 980), (200, 210), images=best[1])
    canvas.add("DiffLoRASave", "Save the best", (1720, 980), (200, 150), lora=best[0], filename_prefix="difflora_best")


def save_and_load(pieces: Portrait) -> None:
    """The LoRA as a file, used by ComfyUI's own loader."""
    canvas = pieces.canvas
    canvas.group("1 · Make the LoRA and save it", (-40, 10), (1080, 1200))
    canvas.group("2 · From then on: an ordinary file", (1080, 10), (860, 1200))
    canvas.note(
        "Save",
        (-40, -180),
        (720, 170),
        "# DiffLoRA: save, then use anywhere\nThe left half writes a LoRA file with metadata about its "
        "making. The right half is plain ComfyUI: *Load LoRA* reads the file, as any other program would. "
        "Run once, then choose the file you saved in *Load LoRA*; the left half can be deleted.",
    )
    image = pieces.references(["reference_1.png"], -20, 90, ["Reference 1"])
    model = pieces.load(680, 80)
    features = pieces.see(image, pieces.encoders(300, 90), 300, 330)
    lora = pieces.decode(model, pieces.latent(model, features, 680, 330), 680, 850)
    canvas.add(
        "DiffLoRASave",
        "Save LoRA",
        (680, 950),
        (340, 160),
        lora=lora,
        filename_prefix="difflora_saved",
        folder="models/loras",
    )
    base = pieces.checkpoint(1100, 90)
    loaded = canvas.add(
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
    pieces.picture((base[0], loaded[1], base[2]), loaded[0], 1100, 480, "difflora_save_and_load")


OF_TWO = (0.8, 1.0)
"""Strengths of the person's LoRA and of the second one beside it: at full strength the person's hair comes through the
hat. Looked at on validation people."""


def controlnet(pieces: Portrait) -> None:
    """A person's LoRA together with a ControlNet and with another LoRA."""
    canvas = pieces.canvas
    canvas.group("1 · Who is it?", (-40, 10), (320, 1620))
    canvas.group("2 · What is to be seen", (300, 10), (360, 1620))
    canvas.group("3 · Make the LoRA", (680, 10), (380, 1620))
    canvas.group("4 · Pose: edges of any picture", (1080, 10), (360, 1620))
    canvas.group("5 · Both, and another LoRA", (1460, 10), (860, 1620))
    canvas.note(
        "Together",
        (-40, -210),
        (720, 200),
        "# DiffLoRA: with ControlNet and a second LoRA\nThe person is an ordinary **LoRA**, so it works with whatever "
        "works with LoRAs. Here a *ControlNet* takes pose and expression from the edges of another picture, and a "
        "**second LoRA** adds a blue beanie that no prompt of this base model can ask for.\n\n" + FOR_SDXL,
    )
    image = pieces.references(["reference_1.png"], -20, 90, ["Reference 1"])
    model = pieces.load(700, 80)
    features = pieces.see(image, pieces.encoders(320, 90), 320, 330)
    lora = pieces.decode(model, pieces.latent(model, features, 700, 330), 700, 850)
    pose = pieces.references(["pose.png"], 1100, 90, ["Pose"])
    control = pieces.edges(pose, 1100, 450)
    canvas.note(
        "Edges",
        (1100, 1060),
        (320, 190),
        "Edges show a face as well as a pose. With *strength* and *end_percent* in **Apply ControlNet** low, the LoRA "
        "decides whose face it is.\n\nFor SDXL take a Canny ControlNet or Control-LoRA, and the Canny node's own "
        "thresholds.",
    )
    base = pieces.checkpoint(1480, 90)
    own = pieces.apply(base, lora, 1480, 240, OF_TWO[0])
    both = canvas.add(
        "LoraLoaderModelOnly",
        "Second LoRA",
        (1480, 480),
        (360, 82),
        model=own,
        lora_name="miniature_blue_beanie.safetensors",
        strength_model=OF_TWO[1],
    )[0]
    pieces.picture(base, both, 1480, 620, "difflora_controlnet", WITHOUT_HAT, control)


WORKFLOWS: dict[str, Callable[[Portrait], None]] = {
    "difflora_one_picture": one_picture,
    "difflora_portrait": several,
    "difflora_blend": blend,
    "difflora_candidates": candidates,
    "difflora_save_and_load": save_and_load,
    "difflora_controlnet": controlnet,
}


def personalize(pieces: Portrait) -> None:
    """The subgraph: pictures and MODEL to MODEL and LORA_MODEL."""
    canvas = pieces.canvas
    images, base = canvas.input("images", "IMAGE"), canvas.input("model", "MODEL")
    model = pieces.load(380, 80)
    features = pieces.see(images, pieces.encoders(0, 90), 0, 330)
    lora = pieces.decode(model, pieces.latent(model, features, 380, 330), 380, 850)
    canvas.expose("model", pieces.apply((base,), lora, 760, 90))
    canvas.expose("lora", lora)


def write_workflows(object_info: Mapping[str, Any], sampling: SamplingConfig, folder: Path = ROOT) -> None:
    """Write every example workflow, and the subgraph blueprint, with the sampling the shipped checkpoint recommends."""
    for name, make in WORKFLOWS.items():
        pieces = Portrait(object_info, sampling)
        make(pieces)
        pieces.canvas.save(folder / "workflows" / f"{name}.json")
    pieces = Portrait(object_info, sampling)
    personalize(pieces)
    pieces.canvas.save_subgraph(folder / "subgraphs" / "Personalize.json")
