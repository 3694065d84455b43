"""Load Reference Images from Folder: all images of a folder in ComfyUI's input directory, as a list."""

import hashlib
import logging
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ...difflora_core.images import LONGEST_SIDE, describe_passed_over, is_image, not_huge, printable, read_image
from ..sockets import CATEGORY, node_schema, show_text, to_intermediate

NO_FOLDER = "no folder in input"
MAX_IMAGES = 1000


class LoadReferenceFolder(io.ComfyNode):
    """Read the images of a folder in the order of their names; those that can't be read are named."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRALoadFolder",
            display_name="Load Reference Images from Folder",
            category=CATEGORY,
            description="Loads all images of a folder, of any sizes, as a list: the references of one person. Above "
            f"{LONGEST_SIDE} pixels a side they are made smaller.",
            search_aliases=["reference folder", "image directory", "load batch", "load images", "dataset", "portrait"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "image_folder",
                    options=folder_paths.get_input_subfolders() or [NO_FOLDER],
                    tooltip="A folder in ComfyUI's input directory. Press R after adding one.",
                ),
                io.Int.Input(
                    "max_images",
                    default=16,
                    min=1,
                    max=MAX_IMAGES,
                    tooltip="At most so many images are loaded, the first by name.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="IMAGE",
                    tooltip="For Encode Face, which takes all of them as one person.",
                    is_output_list=True,
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, image_folder: str, max_images: int) -> str:
        """Return a string that changes with the names, sizes and times of the images."""
        hashed = hashlib.sha256(f"{image_folder}:{max_images}".encode())
        for path in files_in(image_folder)[0]:
            status = path.stat()
            hashed.update(f"{path}:{status.st_size}:{status.st_mtime_ns}".encode("utf-8", "backslashreplace"))
        return hashed.hexdigest()

    @classmethod
    def execute(cls, image_folder: str, max_images: int) -> io.NodeOutput:
        """Read the images and show how many there are, and what was not read."""
        paths, others = files_in(image_folder)
        images: list[torch.Tensor] = []
        unreadable: list[str] = []
        progress = comfy.utils.ProgressBar(min(len(paths), max_images))
        for path in paths:
            if len(images) == max_images:
                break
            try:
                # Encode Face would reduce it, too; a photo of 24 million pixels takes 288 MB as long as it is cached
                array = not_huge(np.asarray(read_image(path, path.name)))
            except ValueError as error:
                unreadable.append(str(error))
                continue
            images.append(to_intermediate(torch.from_numpy(array.copy()).float()[None] / 255.0))
            progress.update(1)
        notes = [f"not read: {problem}" for problem in unreadable]
        if others:
            notes.append(describe_passed_over(others))
        if not images:
            found = "; ".join(notes) or "it is empty"
            raise ValueError(f"no image of the folder {printable(image_folder)!r} can be read: {found}")
        for note in notes:
            logging.warning("Load Reference Images from Folder: %s", note)
        text = "\n".join([f"{len(images)} of {len(paths)} images", *notes])
        show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(images, ui=ui.PreviewText(text))


def files_in(name: str) -> tuple[list[Path], list[str]]:
    """Return the images of a folder in the input directory, and the names of its other files, both sorted by name.

    Raises:
        ValueError: There is no such folder, or it, or an image, lies outside of the input directory.
    """
    root = Path(folder_paths.get_input_directory()).resolve()
    folder = (root / name).resolve()
    if name == NO_FOLDER or not folder.is_dir():
        raise ValueError(
            f"there is no folder {printable(name)!r} in ComfyUI's input directory ({root}): put the person's images "
            "into a folder there, press R, and choose it"
        )
    files = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.name)
    for path in (folder, *files):
        if not path.resolve().is_relative_to(root):
            raise ValueError(
                f"{printable(path.name)} leads to {path.resolve()}, outside of ComfyUI's input directory ({root}): "
                "copy the images there"
            )
    others = [path.name for path in files if not is_image(path) and not path.name.startswith(".")]
    return [path for path in files if is_image(path)], others
