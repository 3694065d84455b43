"""An image of every node for its help page, web/docs/<node>.png, taken in the browser after the node has run.

python -m miniature help-images
"""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Page

from difflora_core.checkpoint import autoencoder_fingerprint
from difflora_core.denoiser.config import SamplingConfig
from difflora_core.denoiser.latent_file import save_latents
from difflora_core.model import DiffLoRA
from miniature.comfyui.browser import chromium, load_graph, opened, run_shown, settings
from miniature.comfyui.workflow_builder import PROMPT, WorkflowBuilder
from miniature.comfyui.workflow_graph import Output, WorkflowGraph
from miniature.paths import DIFFLORA_CHECKPOINT, ROOT
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import reference_scene
from training.comfyui_client import Client

DOCS = ROOT / "web" / "docs"
PREFIX = "DiffLoRA"
WHO = 5
"""Number of the person among the held-out people."""
TEXT_LINES = {"DiffLoRALoad": 100, "DiffLoRALoadLoRA": 130, "DiffLoRAFaceSimilarity": 40}
"""Pixels that a node's text needs below its widgets, where that is more than usual."""
IDENTITY = "person_00001_.safetensors"
"""What Load Identity loads."""
BEANIE = "miniature_blue_beanie.safetensors"
"""What Load LoRA File loads."""
FOLDER = "help"
"""Of the input directory: what Load Reference Images from Folder loads."""
STEP = 2000
"""Pixels between the places where images of nodes are taken, so that no neighbor is in an image."""


class AllNodes:
    """A workflow with one of each of the pack's nodes, and what they need to run."""

    def __init__(self, object_info: Mapping[str, Any], sampling: SamplingConfig) -> None:
        self.graph = WorkflowGraph(object_info)
        self.builder = WorkflowBuilder(self.graph, sampling)

    def add(self, type: str, width: int, **inputs: Any) -> tuple[Output, ...]:
        """Add a node of the pack; its height is set in the browser."""
        outputs = self.graph.add(type, self.graph.object_info[type]["display_name"], **inputs)
        self.graph.resize(width, 60)
        return outputs

    def build(self) -> dict[str, Any]:
        """Add and connect all nodes; return the workflow as in a file."""
        builder, add = self.builder, self.add
        self.graph.group("All nodes")
        images = builder.batch([builder.load_image(name, f"{name}.png") for name in ("help_1", "help_2")])
        listed = add("DiffLoRALoadFolder", 340, image_folder=FOLDER)
        self.graph.add("PreviewImage", "Listed", images=listed[0])
        base = builder.load_base_model()
        model = add("DiffLoRALoad", 340, checkpoint="miniature.safetensors")[0]
        faces = add("DiffLoRALoadFaceAnalysis", 320, model_pack="auto", provider="CPU")[0]
        lora = self.make_loras(model, faces, images)
        self.use_lora(base, faces, images, lora)
        return self.graph.to_dict("help")

    def make_loras(self, model: Output, faces: Output, images: Output) -> Output:
        """Add the nodes from images to a LoRA, and those that read and write identities and LoRAs; return the LoRA."""
        builder, add = self.builder, self.add
        vision = add("DiffLoRALoadCLIPVision", 320, clip_name="miniature")[0]
        face, _, features = add("DiffLoRAEncodeFace", 320, image=images, face_analysis=faces, clip_vision=vision)
        mixed = add("DiffLoRAMixFeatures", 340, model=model, face=face, clip_vision_output=features)[0]
        settings = {**asdict(builder.sampling), "candidates": 2}
        latent = add("DiffLoRASample", 340, model=model, features=mixed, seed=1, **settings)[0]
        lora = add("DiffLoRADecode", 300, model=model, latent=latent)[0]
        loaded = add("DiffLoRALoadIdentity", 300, identity=IDENTITY)[0]
        add("DiffLoRASaveIdentity", 300, latent=loaded)
        read = add("DiffLoRALoadLoRA", 400, lora_name=BEANIE)[0]
        add("DiffLoRASave", 300, lora=read, folder="output/loras")
        again = add("DiffLoRAEncode", 400, model=model, lora=lora)[0]
        blended = add("DiffLoRABlend", 340, first=latent, second=again)[0]
        decoded = add("DiffLoRADecode", 300, model=model, latent=blended)[0]
        add("DiffLoRASave", 300, lora=decoded, folder="output/loras")  # without it none of the three would run
        return lora

    def use_lora(self, base: tuple[Output, ...], faces: Output, images: Output, lora: Output) -> None:
        """Add the nodes that apply, choose, refine, measure and compare LoRAs."""
        add = self.add
        made = self.generate(base, add("DiffLoRAApply", 340, model=base[0], lora=lora)[0])
        best = add("DiffLoRAPickBest", 340, loras=lora, images=made, references=images, face_analysis=faces)
        add("DiffLoRASave", 340, lora=best[0], filename_prefix="difflora", folder="output/loras")
        refined = add(
            "DiffLoRARefine",
            360,
            model=base[0],
            clip=base[1],
            vae=base[2],
            lora=best[0],
            images=images,
            prompt=PROMPT,
            steps=40,
            seed=1,
        )
        self.graph.add("PreviewImage", "Curve", images=refined[1])
        self.graph.add("DiffLoRASave", "Refined", lora=refined[0], folder="output/loras")
        likeness = add("DiffLoRAFaceSimilarity", 340, images=made, references=images, face_analysis=faces)
        self.graph.add("PreviewImage", "Grid", images=likeness[2])
        models, labels = add("DiffLoRAApplyStrengths", 340, model=base[0], lora=best[0])
        compared = add("DiffLoRAImageGrid", 300, images=self.generate(base, models), labels=labels)
        self.graph.add("PreviewImage", "Compared", images=compared[0])

    def generate(self, base: tuple[Output, ...], model: Output) -> Output:
        """Add what makes an image."""
        samples = self.builder.sample_image(model, self.builder.prompts(base[1]))
        return self.builder.decode_image(samples, base[2])[0]


def write_identity(base: Path) -> None:
    """Write the file that Load Identity loads into a base directory: the average person."""
    model = DiffLoRA.load(DIFFLORA_CHECKPOINT)
    path = base / "models" / "difflora_identities" / IDENTITY
    path.parent.mkdir(parents=True, exist_ok=True)
    average = torch.zeros(1, *model.lae.latent_mean.shape)
    save_latents(path, average, DIFFLORA_CHECKPOINT.name, [{}], autoencoder_fingerprint(DIFFLORA_CHECKPOINT))


def make_help_images(client: Client, sampling: SamplingConfig) -> None:
    """Run one of each node and take an image of it in the page."""
    who = split_people("held_out")[WHO]
    for number in (1, 2):
        image = draw(person(who), reference_scene(np.random.default_rng(number))).image
        for folder in ("", FOLDER):
            client.upload(Image.fromarray(image), f"help_{number}.png", folder=folder)
    workflow = AllNodes(client.object_info(), sampling).build()
    settings(client.url, TutorialCompleted=True, Locale="en")
    with chromium() as browser, opened(browser, client.url, device_scale_factor=1.5) as page:
        load_graph(page, workflow)
        run_shown(page, client)
        names = {node["id"]: node["type"] for node in workflow["nodes"] if node["type"].startswith(PREFIX)}
        for number, name in reversed(names.items()):  # of two nodes of a kind the first is shown
            _take_image(page, number, TEXT_LINES.get(name, 0)).save(DOCS / f"{name}.png", optimize=True)


def _take_image(page: Page, number: int, more: int) -> Image.Image:
    """One node at its natural size, `more` pixels higher, with a margin."""
    size = page.evaluate(
        """([number, more, step]) => {
            const node = window.app.graph.getNodeById(number), canvas = window.app.canvas;
            node.pos = [0, -step * number];
            node.setSize([node.size[0], node.computeSize()[1] + (node.imgs ? 60 : more)]);
            canvas.deselectAll();
            canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
            canvas.ds.scale = 1;
            canvas.ds.offset = [120 - node.pos[0], 300 - node.pos[1]];
            canvas.setDirty(true, true);
            return [...node.size];
        }""",
        [number, more, STEP],
    )
    page.mouse.move(900, 950)
    page.wait_for_timeout(700)
    shot = page.screenshot(clip={"x": 108, "y": 236, "width": size[0] + 24, "height": size[1] + 76})
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    return image.quantize(128, dither=Image.Dither.NONE)
