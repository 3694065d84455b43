"""Encode LoRA and Blend Latents: from a LoRA to its latent, and arithmetic with latents."""

from collections.abc import Mapping, Sequence

from comfy_api.latest import io, ui
from torch import Tensor

from ..difflora_core.autoencoder.inverse import MIN_EXPLAINED, explained_share
from ..difflora_core.denoiser.latent_arithmetic import blend
from ..difflora_core.lora.file_formats import read_lora
from .sockets import (
    CATEGORY,
    DiffLoRAModel,
    Latent,
    LoadedDiffLoRA,
    LoRALatent,
    node_schema,
    show_text,
    to_intermediate,
)


class EncodeLoRA(io.ComfyNode):
    """Encode a LoRA into the latent space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRAEncode",
            display_name="Encode LoRA",
            category=CATEGORY,
            description="Encodes a LoRA with the checkpoint's layout into the latent space, to blend or to scale it.",
            search_aliases=["LoRA to latent", "compress LoRA", "convert LoRA", "autoencoder", "identity"],
            has_intermediate_output=True,
            inputs=[
                DiffLoRAModel.Input("model", tooltip="From Load DiffLoRA."),
                io.LoraModel.Input("lora", tooltip="Any LORA_MODEL with the checkpoint's modules and rank."),
            ],
            outputs=[
                Latent.Output("latent", display_name="DIFFLORA_LATENT", tooltip="For Blend Latents, Decode LoRA.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: LoadedDiffLoRA, lora: Mapping[str, Tensor]) -> io.NodeOutput:
        """Encode, and say how much of the LoRA its latent gives back.

        A LoRA with other modules, shapes or rank is an error that names the first difference.
        """
        difflora = model.on_device()
        flat = read_lora(lora, difflora.layout)[None]
        latents = difflora.encode(flat)
        description = describe_encoding(float(explained_share(difflora.lae, flat.to(latents), latents)))
        show_text(description, cls.hidden.unique_id)
        made_by = {"encoded": dict(getattr(lora, "made_by", {}))}
        latent = LoRALatent(to_intermediate(latents), model.name, (made_by,), model.autoencoder)
        return io.NodeOutput(latent, ui=ui.PreviewText(description))


def describe_encoding(explained: float) -> str:
    """Describe what a latent gives back of a LoRA, as a share of its squared normalized weights."""
    if explained >= MIN_EXPLAINED:
        return f"made by this checkpoint: its latent gives back {explained:.0%} of the LoRA"
    return (
        f"of other origin: its latent gives back {max(explained, 0.0):.0%} of the LoRA\n"
        "compare images of it before and after, likeness may be lost"
    )


class BlendLatents(io.ComfyNode):
    """Interpolate or average the latents of several people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs, outputs and texts."""
        return node_schema(
            node_id="DiffLoRABlend",
            display_name="Blend Latents",
            category=CATEGORY,
            description="Interpolates between two people or averages up to four, and scales the result.",
            search_aliases=["interpolate", "average", "mix people", "morph", "merge LoRA"],
            has_intermediate_output=True,
            inputs=[
                Latent.Input("first", tooltip="The first person, from Sample LoRA, Encode LoRA or Load Identity."),
                Latent.Input(
                    "second", optional=True, tooltip="The second person. With first alone, only latent_scale is used."
                ),
                Latent.Input(
                    "third", optional=True, tooltip="A third person: all are averaged and amount is not used."
                ),
                Latent.Input(
                    "fourth", optional=True, tooltip="A fourth person: all are averaged and amount is not used."
                ),
                io.Float.Input(
                    "amount",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Interpolation between first and second: 0 is the first, 1 the second.",
                ),
                io.Float.Input(
                    "latent_scale",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Scale of the result: 0 is the average person, 1 unchanged, above 1 exaggerates.",
                ),
            ],
            outputs=[Latent.Output("latent", display_name="DIFFLORA_LATENT", tooltip="For Decode LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        first: LoRALatent,
        amount: float,
        latent_scale: float,
        second: LoRALatent | None = None,
        third: LoRALatent | None = None,
        fourth: LoRALatent | None = None,
    ) -> io.NodeOutput:
        """Blend latents of one checkpoint, and say when `amount` is not used: a muted node's latent does not arrive."""
        people = [latent for latent in (first, second, third, fourth) if latent is not None]
        known = check_same_autoencoder(people)
        interpolates = second is not None and len(people) == 2
        blended = blend([latent.latents for latent in people], amount if interpolates else 0.5, latent_scale)
        settings = {"amount": amount} if interpolates else {}
        made_by = tuple(
            {
                "blend": [latent.made_by[min(row, len(latent.made_by) - 1)] for latent in people],
                "latent_scale": latent_scale,
                **settings,
            }
            for row in range(len(blended))
        )
        latent = LoRALatent(blended, known.checkpoint, made_by, known.autoencoder)
        if interpolates:
            return io.NodeOutput(latent)
        description = f"{len(people)} averaged" if len(people) > 1 else "one latent, no blend"
        description += ": amount is not used"
        show_text(description, cls.hidden.unique_id)
        return io.NodeOutput(latent, ui=ui.PreviewText(description))


def check_same_autoencoder(people: Sequence[LoRALatent]) -> LoRALatent:
    """Check that latents can be blended, and return one whose autoencoder is known, if there is one.

    Raises:
        ValueError: They are of two autoencoders; both checkpoints are named.
    """
    known = next((latent for latent in people if latent.autoencoder), people[0])
    for other in people:
        if other.is_compatible_with(known.checkpoint, known.autoencoder):
            continue
        if other.checkpoint == known.checkpoint:
            raise ValueError(
                f"the latents were made with two versions of {known.checkpoint}, between which its autoencoder was "
                "trained again: make the older latent again from the reference images"
            )
        raise ValueError(
            f"the latents were made with {known.checkpoint} and {other.checkpoint}: only latents of the same "
            "checkpoint can be blended"
        )
    return known
