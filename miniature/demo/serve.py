"""The miniature in the browser: `python -m nox -s serve` starts ComfyUI with everything that the workflows need.

Example pictures of people whom no training saw lie in the input folder, so that every workflow in the Templates runs as
it opens.
"""

import threading
import webbrowser
from pathlib import Path

import numpy as np
from PIL import Image

from miniature.comfyui.host import Host, prepare_base
from miniature.paths import ROOT
from miniature.world.drawing import draw
from miniature.world.people import Scene, person, reference_scene, split_people

POSE = Scene(expression="laughing", hat="wearing a red beanie", pose="turned left", yaw=-0.33)


def example_pictures(folder: Path) -> list[Path]:
    """Write the pictures that the workflows name, unless they are there: three of a person, a pose of another."""
    who, other = split_people("held_out")[5:7]
    pictures = {
        f"reference_{number}.png": (who, reference_scene(np.random.default_rng(number))) for number in (1, 2, 3)
    }
    pictures["pose.png"] = (other, POSE)
    for name, (index, scene) in pictures.items():
        if not (folder / name).exists():
            Image.fromarray(draw(person(index), scene).image).save(folder / name)
    return [folder / name for name in pictures]


def serve(open_browser: bool = True) -> None:
    """Run until Ctrl-C."""
    base = prepare_base(ROOT / "output" / "host")
    example_pictures(base / "input")
    print("starting ComfyUI …", flush=True)
    with Host(base) as host:
        print(f"{host.url}  (Templates, then the pack's name; Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(host.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")
