"""Files of this project by their headers."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..autoencoder.config import LAEConfig
from ..autoencoder.lae_file import HEADER as LAE_HEADER
from ..autoencoder.lae_file import read_lae_header
from ..checkpoint import HEADER as CHECKPOINT_HEADER
from ..checkpoint import read_checkpoint_header
from ..config import DiffLoRAConfig
from ..denoiser.latent_file import HEADER as LATENT_HEADER
from ..denoiser.latent_file import TENSOR, read_latent_header
from ..fields import read_json
from ..lora.layout import LoRALayout
from ..lora.lora import METADATA_KEY
from .file_header import FileHeader, show, show_line, show_names


def describe_project_file(header: FileHeader) -> list[str] | None:
    """Describe a checkpoint, an autoencoder, an identity or a part of a LoRA store; None if it is something else.

    Raises:
        ValueError: The file says that it is one, but its header is damaged or newer than this version.
    """
    if LAE_HEADER in header.metadata:
        return _describe_lae(header)
    if LATENT_HEADER in header.metadata:
        return _describe_identity(header)
    if CHECKPOINT_HEADER in header.metadata and METADATA_KEY not in header.metadata:
        return _describe_checkpoint(header)
    if "people" in header.metadata and len(header.shapes.get("loras", ())) == 2:
        return _describe_shard(header)
    return None


def _describe_checkpoint(header: FileHeader) -> list[str]:
    layout, config = read_checkpoint_header(header.path, header.metadata, header.shapes)
    dit, mif, sampling = config.dit, config.mif, config.sampling
    return [
        "DiffLoRA checkpoint",
        f"name: {show(header.path.stem)}",
        *describe_training(config),
        _layout(layout),
        _lae(layout, config.lae),
        f"DiT: {dit.layers} layers, width {dit.width}, {dit.heads} heads of width {dit.head_width}",
        f"MIF: mode {mif.mode}, condition of width {mif.width}",
        f"face encoder: {show(config.encoders.face)}, embeddings of width {mif.face_width}",
        f"image encoder: {show(config.encoders.image)}, embeddings of width {mif.image_width}",
        f"recommended sampling: {sampling.steps} steps, guidance {sampling.guidance_scale:g}, scheduler "
        f"{sampling.scheduler}, {sampling.samples} samples, latent scale {sampling.latent_scale:g}, temperature "
        f"{sampling.temperature:g}",
        "folder in ComfyUI: models/difflora",
    ]


def _describe_lae(header: FileHeader) -> list[str]:
    layout, lae, provenance = read_lae_header(header.path, header.metadata)
    return ["LoRA autoencoder (LAE)", *_trained(provenance), _layout(layout), _lae(layout, lae)]


def _describe_identity(header: FileHeader) -> list[str]:
    own = read_latent_header(header.path, header.metadata, header.shapes)
    shape = " × ".join(map(str, header.shapes[TENSOR][1:]))
    return [
        "identity: latents of a person, from Save Identity",
        f"latents: {len(own.made_by)} of {shape}",
        f"checkpoint that decodes them: {show(own.checkpoint)}",
        *(show_line("made by", made) for made in own.made_by[:1] if made),
        "folder in ComfyUI: models/difflora_identities",
    ]


def _describe_shard(header: FileHeader) -> list[str]:
    what = f"{header.path}: the entry 'people' of its metadata"
    people = read_json(f'{{"people": {header.metadata["people"]}}}', what)["people"]
    rows, weights = header.shapes["loras"]
    if not isinstance(people, list) or len(people) != rows:
        raise ValueError(f"{what} is {show(people)}, expected a list of {rows} people: the file is damaged.")
    beside = [name for name in header.shapes if name != "loras"]
    return [
        "shard of a LoRA store",
        f"people: {show_names(list(map(str, people)))}",
        f"LoRAs: {rows:,} of {weights:,} weights each",
        *([f"measured of each: {show_names(beside)}"] if beside else []),
    ]


def _trained(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Say on how many people, and when; files of the first version count teachers."""
    people = provenance.get("people", provenance.get("teachers"))
    facts = [show(f"{people:,}") + " people"] if type(people) is int else []
    facts += [show(provenance["date"])] if "date" in provenance else []
    if facts:
        yield f"trained on: {', '.join(facts)}"


def describe_training(config: DiffLoRAConfig) -> Iterator[str]:
    """Say on whom and when a checkpoint was trained, and what its recommended sampling reached, as far as it knows."""
    yield from _trained(config.provenance)
    tried = config.provenance.get("sampling", config.provenance.get("validation"))
    reached = tried.get(config.sampling.name) if isinstance(tried, Mapping) else None
    if isinstance(reached, Mapping):
        yield show_line("reached on validation people", reached)


def _layout(layout: LoRALayout) -> str:
    modules, base = len(layout.modules), layout.base_model
    return f"makes LoRAs: base model {base}, {modules} modules, rank {layout.rank}, {layout.numel:,} weights"


def _lae(layout: LoRALayout, config: LAEConfig) -> str:
    ratio = layout.numel / (config.tokens * config.width)
    return f"LAE: {config.kind}, latent {config.tokens} × {config.width}, compression {ratio:.0f} to 1"
