"""Run by a test in its own process, with ComfyUI on its path: embeddings of the same images by both programs.

    python clip_vision_in_host.py HOST

Writes the smallest cosine between ComfyUI's `image_embeds` and those of transformers, with its own preprocessing for
images of the model's size and with ours (which training uses) for images of any size.
"""

import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from difflora_core.encoders.image_encoder import ImageEncoder
from miniature.encoders.clip_vision import FOLDER, encode
from miniature.world.drawing import draw
from miniature.world.people import person, split_people
from miniature.world.scenes import reference_scene

HOST = sys.argv[1]
sys.argv = sys.argv[:1]
sys.path.insert(0, HOST)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

from comfy.clip_vision import ClipVisionModel  # noqa: E402

rng = np.random.default_rng(0)
images = np.stack([draw(person(index), reference_scene(rng)).image for index in split_people("validation")[:4]])
native = ClipVisionModel(str(FOLDER / "config.json"))
missing, unexpected = native.load_sd(load_file(FOLDER / "model.safetensors"))
assert not missing, f"ComfyUI's CLIP vision misses {missing}"
assert not unexpected, f"ComfyUI's CLIP vision does not know {unexpected}"


def in_comfyui(images: np.ndarray) -> torch.Tensor:
    return native.encode_image(torch.from_numpy(images).float() / 255.0)["image_embeds"].float()


smallest = [torch.nn.functional.cosine_similarity(encode(list(map(Image.fromarray, images))), in_comfyui(images))]
for size in ((128, 128), (64, 64), (300, 170), (97, 211)):
    resized = np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])
    ours = ImageEncoder.open(FOLDER).encode(list(resized))
    smallest.append(torch.nn.functional.cosine_similarity(ours, in_comfyui(resized)))
sys.stdout.write(f"{torch.cat(smallest).min():.6f}\n")
