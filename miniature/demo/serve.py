"""The miniature in the browser: `python -m nox -s serve` starts ComfyUI with everything that the workflows need.

Example images of held-out people are put into the input folder, so that every workflow in the Templates runs as it is.
"""

import threading
import webbrowser
from pathlib import Path

import numpy as np
from PIL import Image

from miniature.comfyui.host import PACK_NAME, Host, interrupt_on_signals, prepare_base
from miniature.comfyui.workflows import OTHER_PERSON, POSE, REFERENCES, WORKFLOWS
from miniature.paths import ROOT
from miniature.world.drawing import IMAGE_SIZE, draw
from miniature.world.people import person, split_people
from miniature.world.scenes import CONTROL_SCENES, reference_scene

FIRST_PAGE = f"/?template={next(iter(WORKFLOWS))}&source={PACK_NAME}"
"""The page with the first workflow open."""
REFERENCE_SIZE = 512
"""Side in pixels of the example references; the pose is as large as the generated image, as its edges are."""


def example_images(folder: Path) -> list[Path]:
    """Write the images that the workflows name, unless they are there: of a person, of another one, and a pose."""
    who, other = split_people("held_out")[5:7]
    images = {
        name: (who, reference_scene(np.random.default_rng(number)), REFERENCE_SIZE)
        for number, name in enumerate(REFERENCES, start=1)
    }
    images[OTHER_PERSON] = (other, reference_scene(np.random.default_rng(2)), REFERENCE_SIZE)
    images[POSE] = (other, CONTROL_SCENES[0], IMAGE_SIZE)
    for name, (index, scene, size) in images.items():
        if not (folder / name).exists():
            Image.fromarray(draw(person(index), scene, size).image).save(folder / name)
    return [folder / name for name in images]


def serve(open_browser: bool = True) -> None:
    """Run until Ctrl-C, or until the process is told to end; ComfyUI ends with it."""
    base = prepare_base(ROOT / "output" / "host")
    example_images(base / "input")
    interrupt_on_signals()
    try:
        with Host(base) as host:
            address = host.url + FIRST_PAGE
            print(f"ComfyUI with the miniature: {address}  (Ctrl-C ends it)", flush=True)
            if open_browser:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        return
