"""Run by the tests as a process of its own, with ComfyUI on its path: both programs' embeddings of the same pictures.

    python clip_vision_in_host.py HOST

Writes the smallest cosine between transformers' and ComfyUI's `image_embeds`.
"""

import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from miniature.clip_vision import FOLDER, encode
from miniature.drawing import draw
from miniature.people import person, reference_scene, split_people

HOST = sys.argv[1]
sys.argv = sys.argv[:1]
sys.path.insert(0, HOST)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

from comfy.clip_vision import ClipVisionModel  # noqa: E402

rng = np.random.default_rng(0)
pictures = np.stack([draw(person(index), reference_scene(rng)).image for index in split_people("validation")[:4]])
native = ClipVisionModel(str(FOLDER / "config.json"))
missing, unexpected = native.load_sd(load_file(FOLDER / "model.safetensors"))
assert not missing, f"ComfyUI's CLIP vision misses {missing}"
assert not unexpected, f"ComfyUI's CLIP vision does not know {unexpected}"
theirs = native.encode_image(torch.from_numpy(pictures).float() / 255.0)["image_embeds"].float()
ours = encode([Image.fromarray(picture) for picture in pictures])
sys.stdout.write(f"{torch.nn.functional.cosine_similarity(ours, theirs).min():.6f}\n")
