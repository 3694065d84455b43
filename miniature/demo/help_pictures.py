"""A picture of every node for its help page, web/docs/<node>.png: taken in the browser after the node has really run.

python -m miniature help-pictures
"""

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from difflora_core.denoiser.config import SamplingConfig
from miniature.comfyui.browser import chromium, load_graph, opened, settings
from miniature.comfyui.canvas import Canvas, Output
from miniature.comfyui.client import Client
from miniature.comfyui.workflow_pieces import PROMPT, Portrait
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import person, reference_scene, split_people

DOCS = ROOT / "web" / "docs"
PREFIX = "DiffLoRA"
WHO = 5
TEXT_LINES = {"DiffLoRALoad": 100}
"""Pixels that a node's text needs below its widgets, where that is more than usual."""
STEP = 640
"""Pixels between nodes on the canvas, so that no neighbor gets into a picture."""


class Exhibition:
    """One of each of the pack's nodes, far from each other, with what they need to run."""

    def __init__(self, object_info: Mapping[str, Any], sampling: SamplingConfig) -> None:
        self.pieces = Portrait(object_info, sampling)
        self.places = 0

    @property
    def canvas(self) -> Canvas:
        """The canvas with all nodes."""
        return self.pieces.canvas

    def place(self) -> tuple[int, int]:
        """The next free place."""
        self.places += 1
        return STEP * (self.places % 6), STEP * (self.places // 6)

    def add(self, type: str, width: int, **inputs: Any) -> tuple[Output, ...]:
        """Put a node of the pack there; its height becomes what it needs."""
        title = self.canvas.object_info[type]["display_name"]
        return self.canvas.add(type, title, self.place(), (width, 60), **inputs)

    def fill(self) -> dict[str, Any]:
        """All nodes, wired, as a workflow."""
        pieces, add = self.pieces, self.add
        images = pieces.references(["help_1.png", "help_2.png"], -3000, 0, ["A", "B"])
        base = pieces.checkpoint(-3000, 1500)
        model = add("DiffLoRALoad", 340, checkpoint="miniature.safetensors")[0]
        faces = add("DiffLoRALoadFaceAnalysis", 320, model_pack="miniature", provider="CPU")[0]
        vision = add("DiffLoRALoadCLIPVision", 320, clip_name="miniature")[0]
        face = add("DiffLoRAEncodeFace", 320, image=images, face_analysis=faces)[0]
        seen = self.canvas.add("CLIPVisionEncode", "See", self.place(), (320, 60), clip_vision=vision, image=images)[0]
        mixed = add("DiffLoRAMixFeatures", 340, model=model, face=face, clip_vision_output=seen)[0]
        chosen = pieces.sampling
        settings: dict[str, Any] = {
            "steps": chosen.steps,
            "guidance_scale": chosen.guidance_scale,
            "latent_scale": chosen.latent_scale,
        }
        settings |= {"samples": chosen.samples, "scheduler": chosen.scheduler, "candidates": 2}
        latent = add("DiffLoRASample", 340, model=model, features=mixed, seed=1, **settings)[0]
        lora = add("DiffLoRADecode", 300, model=model, latent=latent)[0]
        again = add("DiffLoRAEncode", 300, model=model, lora=lora)[0]
        add("DiffLoRADecode", 300, model=model, latent=add("DiffLoRABlend", 340, first=latent, second=again)[0])
        made = pieces.picture(base, add("DiffLoRAApply", 340, model=base[0], lora=lora)[0], -2400, 0, "help")
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
        self.canvas.add("PreviewImage", "Curve", self.place(), (300, 300), images=refined[1])
        self.canvas.add("DiffLoRASave", "Refined", self.place(), (300, 60), lora=refined[0], folder="output/loras")
        likeness = add("DiffLoRAFaceSimilarity", 340, images=made, references=images, face_analysis=faces)
        self.canvas.add("PreviewImage", "Grid", self.place(), (300, 300), images=likeness[2])
        with TemporaryDirectory() as folder:
            path = Path(folder) / "help.json"
            self.canvas.save(path)
            return json.loads(path.read_text(encoding="utf-8"))


def make_help_pictures(client: Client, sampling: SamplingConfig, folder: Path = DOCS) -> None:
    """Run one of each node and photograph it in the page."""
    who = split_people("held_out")[WHO]
    for number in (1, 2):
        picture = draw(person(who), reference_scene(np.random.default_rng(number))).image
        client.upload(Image.fromarray(picture), f"help_{number}.png")
    workflow = Exhibition(client.object_info(), sampling).fill()
    settings(client.url, TutorialCompleted=True, Locale="en")
    with chromium() as browser, opened(browser, client.url, device_scale_factor=1.5) as page:
        load_graph(page, workflow)
        _run(page, client)
        names = {node["id"]: node["type"] for node in workflow["nodes"] if node["type"].startswith(PREFIX)}
        for number, name in reversed(names.items()):  # of two nodes of a kind the first is shown
            _photograph(page, number, TEXT_LINES.get(name, 0)).save(folder / f"{name}.png", optimize=True)


def _run(page: Page, client: Client) -> None:
    before = client.history()
    page.evaluate("window.app.queuePrompt(0)")
    end = time.monotonic() + 300
    while not (new := client.history() - before):
        if time.monotonic() > end:
            raise TimeoutError("the nodes did not finish within 300 s")
        time.sleep(0.2)
    client.wait(new.pop())
    page.wait_for_timeout(2000)


def _photograph(page: Page, number: int, more: int) -> Image.Image:
    """One node at its natural size, `more` pixels higher, with a margin."""
    size = page.evaluate(
        """([number, more]) => {
            const node = window.app.graph.getNodeById(number), canvas = window.app.canvas;
            node.setSize([node.size[0], node.computeSize()[1] + (node.imgs ? 180 : more)]);
            canvas.deselectAll();
            canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
            canvas.ds.scale = 1;
            canvas.ds.offset = [120 - node.pos[0], 300 - node.pos[1]];
            canvas.setDirty(true, true);
            return [...node.size];
        }""",
        [number, more],
    )
    page.mouse.move(900, 950)
    page.wait_for_timeout(700)
    shot = page.screenshot(clip={"x": 108, "y": 236, "width": size[0] + 24, "height": size[1] + 76})
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    return picture.quantize(128, dither=Image.Dither.NONE)
