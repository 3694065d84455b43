"""The miniature in the browser: `python -m nox -s serve` starts ComfyUI with everything that the workflows need.

Example images of held-out people are put into the input folder, so that every workflow in the Templates runs as it is.
"""

import threading
import webbrowser
from pathlib import Path

import numpy as np
from PIL import Image

from miniature.comfyui.host import Host, prepare_base
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import CONTROL_SCENES, reference_scene


def example_images(folder: Path) -> list[Path]:
    """Write the images that the workflows name, unless they are there: three of a person, a pose of another."""
    who, other = split_people("held_out")[5:7]
    images = {f"reference_{number}.png": (who, reference_scene(np.random.default_rng(number))) for number in (1, 2, 3)}
    images["pose.png"] = (other, CONTROL_SCENES[0])
    for name, (index, scene) in images.items():
        if not (folder / name).exists():
            Image.fromarray(draw(person(index), scene).image).save(folder / name)
    return [folder / name for name in images]


def serve(open_browser: bool = True) -> None:
    """Run until Ctrl-C."""
    base = prepare_base(ROOT / "output" / "host")
    example_images(base / "input")
    print("starting ComfyUI …", flush=True)
    with Host(base) as host:
        print(f"{host.url}  (Templates, then the pack's name; Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(host.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")
