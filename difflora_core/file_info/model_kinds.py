"""Other programs' models by their headers: adapters that keep a face, embeddings, base models and their parts."""

from ..images import printable
from .file_header import FileHeader, describe_base_model, model_of_width, show

_ADAPTER_WIDTH = "ip_adapter.1.to_k_ip.weight"
_EMBEDDINGS = ("clip_l", "clip_g", "emb_params")
"""Tensors of textual inversion."""
_SDXL_EMBEDDINGS = {"clip_l": 768, "clip_g": 1280}
_SINGLE_FILE = "model.diffusion_model."
_PARTS = (
    (("lora_controlnet",), "Control-LoRA", "models/controlnet"),
    (("controlnet_cond_embedding.",), "ControlNet, as diffusers names it", "models/controlnet"),
    (("input_hint_block.",), "ControlNet", "models/controlnet"),
    (("control_model.",), "ControlNet", "models/controlnet"),
    (("down_blocks.", "mid_block.", "up_blocks."), "U-Net, as diffusers names it", "models/diffusion_models"),
    (("encoder.", "decoder.", "quant_conv."), "VAE", "models/vae"),
    (("vision_model.embeddings.class_embedding",), "CLIP vision model", "models/clip_vision"),
    (("text_model.embeddings.token_embedding.",), "CLIP text encoder", "models/text_encoders"),
)
"""Beginnings of names that a part of a base model has, all of them; the first that fits names it."""


def describe_adapter(header: FileHeader) -> list[str] | None:
    """Describe an adapter that keeps a face or an image; None if it is something else.

    Some contain LoRAs, so that this comes before `lora_kinds`.
    """
    shapes = header.shapes
    if header.has("id_encoder.", "lora_weights."):
        version = "V2" if header.has("id_encoder.qformer_perceiver.") else "V1"
        return [f"PhotoMaker {version}", "folder in ComfyUI: models/photomaker"]
    if any(name.endswith(".id_down_basis") for name in shapes):
        return ["HyperLoRA: bases of its LoRAs", "folder in ComfyUI: models/hyper_lora/hyper_lora/<version>"]
    if not header.has("image_proj.", "ip_adapter."):
        return None
    kind, folder = _adapter_kind(header)
    width = shapes.get(_ADAPTER_WIDTH, ())[1:]
    base = model_of_width(*width) if len(width) == 1 else "not recognized"
    return [kind, f"base model: {base}", f"folder in ComfyUI: models/{folder}"]


def _adapter_kind(header: FileHeader) -> tuple[str, str]:
    """Tell adapters with the names of IP-Adapter apart by the network that makes tokens of an image or a face."""
    if header.has("image_proj.mapping_"):
        return "PuLID", "pulid"
    face = header.shapes.get("image_proj.proj_in.weight", ())[1:] == (512,)
    if header.has("image_proj.latents") and face:
        return "InstantID: its adapter, beside which it needs a ControlNet", "instantid"
    if header.has("ip_adapter.0.to_q_lora."):
        return "IP-Adapter FaceID, its LoRA included", "ipadapter"
    return "IP-Adapter", "ipadapter"


def describe_model(header: FileHeader) -> list[str] | None:
    """Describe an embedding, a base model or a part of one; None if it is something else."""
    return _describe_embedding(header) or _describe_base(header) or _describe_part(header)


def _describe_embedding(header: FileHeader) -> list[str] | None:
    shapes = header.shapes
    if not shapes or not all(name in _EMBEDDINGS and len(shape) == 2 for name, shape in shapes.items()):
        return None
    widths = {name: width for name, (_, width) in sorted(shapes.items(), reverse=True)}
    if len(widths) == 1:
        base = model_of_width(*widths.values())
    else:
        base = "SDXL" if widths == _SDXL_EMBEDDINGS else "not a published one"
    return [
        "embedding (textual inversion)",
        f"tokens: {max(rows for rows, _ in shapes.values())}",
        f"widths: {', '.join(f'{name} {width}' for name, width in widths.items())}",
        f"base model: {base}",
        f"folder in ComfyUI: models/embeddings; in a prompt: embedding:{printable(header.path.stem)}",
    ]


def _describe_base(header: FileHeader) -> list[str] | None:
    if not header.has(_SINGLE_FILE):
        return None
    unet = {name: shape for name, shape in header.shapes.items() if name.startswith(_SINGLE_FILE)}
    parts = {
        "U-Net" if any(".input_blocks." in name for name in unet) else "diffusion model": True,
        "VAE": header.has("first_stage_model."),
        "two text encoders": header.has("conditioner.embedders.1."),
        "text encoder": header.has("conditioner.embedders.0.") != header.has("conditioner.embedders.1."),
        "text encoder of Stable Diffusion 1 or 2": header.has("cond_stage_model."),
    }
    described = [f"{name}: {show(header.metadata[name])}" for name in ("modelspec.title",) if name in header.metadata]
    return [
        "base model in a single file",
        f"parts: {', '.join(name for name, found in parts.items() if found)}",
        describe_base_model(unet),
        *described,
        "folder in ComfyUI: models/checkpoints",
    ]


def _describe_part(header: FileHeader) -> list[str] | None:
    for beginnings, title, folder in _PARTS:
        if header.has(*beginnings):
            base = [describe_base_model(header.shapes)] if "U-Net" in title or "Control" in title else []
            return [title, *base, f"folder in ComfyUI: {folder}"]
    return None
