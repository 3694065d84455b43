"""Save Identity and Load Identity: a person's latent as a small file, for later blends and LoRAs."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..difflora_core.denoiser.latent_file import load_latents, save_latents
from .file_names import fingerprint_files, move_new, portable_prefix, write_numbered
from .sockets import CATEGORY, Latent, LoRALatent, node_schema, show_text, to_intermediate

FOLDER = "difflora_identities"
"""Of ComfyUI's models folder."""
DEFAULT_NAME, ENDING = "person", ".safetensors"
NO_IDENTITY = "no identity found"


class SaveIdentity(io.ComfyNode):
    """Write a latent into the folder that Load Identity lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRASaveIdentity",
            display_name="Save Identity",
            category=CATEGORY,
            description="Saves a person's latent as a small file, to blend or decode it later without the images.",
            search_aliases=["save latent", "save person", "save face", "character", "export"],
            inputs=[
                Latent.Input("latent", tooltip="From Sample LoRA, Encode LoRA or Blend Latents."),
                io.String.Input(
                    "filename_prefix",
                    default=DEFAULT_NAME,
                    tooltip="Start of the file name, may contain folders; a number is appended.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Check the file name when the workflow is queued; None is a name that comes over a link."""
        try:
            portable_prefix(filename_prefix or "", DEFAULT_NAME, f"_00001_{ENDING}")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, latent: LoRALatent, filename_prefix: str) -> io.NodeOutput:
        """Write the file and show its name in the node."""
        prefix = portable_prefix(filename_prefix, DEFAULT_NAME, f"_00001_{ENDING}")
        root = folder_paths.get_folder_paths(FOLDER)[0]

        def write(path: Path) -> None:
            save_latents(path, latent.latents, latent.checkpoint, latent.made_by, latent.autoencoder, move_new)

        path = write_numbered(prefix, root, ENDING, Path.exists, write)
        description = f"saved {path.relative_to(root).as_posix()} in models/{FOLDER}"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(ui=ui.PreviewText(description))


class LoadIdentity(io.ComfyNode):
    """Read a latent that Save Identity wrote."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(ENDING)]
        return node_schema(
            node_id="DiffLoRALoadIdentity",
            display_name="Load Identity",
            category=CATEGORY,
            description="Loads a person's latent that Save Identity wrote, for the checkpoint that made it.",
            search_aliases=["load latent", "load person", "load face", "character", "import"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "identity",
                    options=files or [NO_IDENTITY],
                    tooltip=f"A file in models/{FOLDER}, from Save Identity.",
                ),
            ],
            outputs=[
                Latent.Output("latent", display_name="DIFFLORA_LATENT", tooltip="For Decode LoRA, Blend Latents.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, identity: str) -> str:
        """Return a string that changes with the file."""
        return fingerprint_files(identity_path(identity))

    @classmethod
    def execute(cls, identity: str) -> io.NodeOutput:
        """Read the file and show which checkpoint it is for."""
        found = load_latents(identity_path(identity))
        count = f"{len(found.latents)} latents" if len(found.latents) > 1 else "a latent"
        description = f"{count} of {found.checkpoint}"
        show_text(description, cls.hidden.unique_id)
        latent = LoRALatent(to_intermediate(found.latents), found.checkpoint, found.made_by, found.autoencoder)
        return io.NodeOutput(latent, ui=ui.PreviewText(description))


def identity_path(name: str) -> Path:
    """Return the path of one of the choices.

    Raises:
        FileNotFoundError: There is none.
    """
    if name == NO_IDENTITY:
        raise FileNotFoundError(f"there is no identity in models/{FOLDER}: save one with Save Identity, then press R")
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
