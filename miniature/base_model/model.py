"""The miniature's base model: U-Net and two text encoders of SDXL's shape, trained together from nothing.

v-prediction with zero terminal SNR (rescaled SDXL betas), so that flat backgrounds come out in their true color.
While training, the text encoders hold only the few dozen tokens that captions use; `expand_vocabulary` puts them back
into the tokenizer's 49,408 rows, unused rows zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.world.people import BACKGROUNDS, EXPRESSIONS, GAZES, GLASSES, HATS, LIGHTS, POSES, SHIRTS, Scene, caption

from . import config as base_config

VOCABULARY = 49408
END_TOKEN = 49407


def noise_scheduler() -> DDPMScheduler:
    """SDXL's betas rescaled to zero terminal SNR, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


class Tokenizer:
    """Captions → token ids of both text encoders, padded to 77 (L with the end token, G with 0)."""

    def __init__(self, folder: Path) -> None:
        """folder: the SDXL tokenizer's vocab.json and merges.txt (ComfyUI carries them in comfy/sd1_tokenizer)."""
        if not (folder / "merges.txt").exists():
            raise FileNotFoundError(f"no SDXL tokenizer in {folder}: expected vocab.json and merges.txt there")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.cache: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Ids for the L and the G encoder: two int64 (captions, 77)."""
        for text in captions:
            if text not in self.cache:
                ids = self.tokenizer(text, truncation=True, max_length=77).input_ids
                self.cache[text] = (_pad(ids, END_TOKEN), _pad(ids, 0))
        rows = [self.cache[text] for text in captions]
        return torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])


def _pad(ids: list[int], pad: int) -> Tensor:
    return torch.tensor(ids + [pad] * (77 - len(ids)))


def used_tokens(tokenizer: Tokenizer) -> Tensor:
    """Sorted ids of all tokens that any caption can hold."""
    words = ["", caption(Scene())]
    for field in (EXPRESSIONS, GAZES, POSES, LIGHTS, GLASSES, HATS, SHIRTS, BACKGROUNDS):
        words += [f"{word}, {word} background" for word in field]
    left, right = tokenizer(words)
    return torch.cat([left, right]).unique()


@dataclass
class Condition:
    """Text conditioning of SDXL: context (batch, 77, 96), pooled (batch, 64)."""

    context: Tensor
    pooled: Tensor

    def repeat(self, times: int) -> Condition:
        return Condition(self.context.repeat(times, 1, 1), self.pooled.repeat(times, 1))


class BaseModel(nn.Module):
    """U-Net and text encoders. `tokens`: ids kept in the embedding tables, None for the whole vocabulary."""

    lookup: Tensor

    def __init__(self, tokens: Tensor | None = None) -> None:
        super().__init__()
        size = VOCABULARY if tokens is None else len(tokens)
        end = END_TOKEN if tokens is None else int(torch.searchsorted(tokens, torch.tensor(END_TOKEN)))
        lookup = torch.arange(VOCABULARY)
        if tokens is not None:
            lookup = torch.zeros(VOCABULARY, dtype=torch.long)
            lookup[tokens] = torch.arange(size)
        self.register_buffer("lookup", lookup, persistent=False)
        compact = {"vocab_size": size, "eos_token_id": end, "bos_token_id": None, "pad_token_id": None}
        if tokens is None:
            compact = {}
        self.text_l = CLIPTextModel(CLIPTextConfig(**{**base_config.TEXT_L, **compact}))
        self.text_g = CLIPTextModelWithProjection(CLIPTextConfig(**{**base_config.TEXT_G, **compact}))
        self.unet = UNet2DConditionModel(**base_config.UNET)

    def encode(self, ids: tuple[Tensor, Tensor]) -> Condition:
        """Token ids (batch, 77) of both encoders → penultimate states and the G encoder's pooled state."""
        left = self.text_l(self.lookup[ids[0]], output_hidden_states=True)
        right = self.text_g(self.lookup[ids[1]], output_hidden_states=True)
        context = torch.cat([left.hidden_states[-2], right.hidden_states[-2]], dim=-1)
        return Condition(context, right.text_embeds)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, condition: Condition, control: tuple[list[Tensor], Tensor] | None = None
    ) -> Tensor:
        """V for noisy latents (batch, 4, 16, 16) at integer timesteps (batch,).

        control: a ControlNet's residuals for the skip connections and the middle.
        """
        time_ids = torch.tensor([base_config.TIME_IDS], dtype=noisy.dtype).expand(len(noisy), -1)
        added = {"text_embeds": condition.pooled, "time_ids": time_ids}
        down, middle = control or (None, None)
        return self.unet(
            noisy,
            timesteps,
            condition.context,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample

    def freeze_unused(self) -> None:
        """No gradient for what the penultimate layer never sees."""
        for name, parameter in self.text_l.named_parameters():
            if "layers.1." in name or "final_layer_norm" in name:
                parameter.requires_grad_(False)


def expand_vocabulary(compact: BaseModel, tokens: Tensor) -> BaseModel:
    """The same model with full embedding tables."""
    full = BaseModel(None)
    state = compact.state_dict()
    for name, parameter in full.state_dict().items():
        if parameter.shape != state[name].shape:
            rows = torch.zeros_like(parameter)
            rows[tokens] = state[name]
            state[name] = rows
    full.load_state_dict(state)
    return full


def load_latents(folder: Path) -> dict[str, Tensor]:
    """All cached latents by block name: float16 (people, pictures, 4, 16, 16)."""
    return {path.stem: load_file(path)["latents"] for path in sorted(folder.glob("*.safetensors"))}


@torch.no_grad()
def sample_latents(
    model: BaseModel,
    condition: Condition,
    empty: Condition,
    generator: torch.Generator,
    steps: int = 16,
    guidance: float = 3.0,
) -> Tensor:
    """DDIM samples (batch, 4, 16, 16) for previews while training; ComfyUI makes every picture that is reported."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(noise_scheduler().config)
    scheduler.set_timesteps(steps)
    latents = torch.randn(len(condition.pooled), 4, 16, 16, generator=generator)
    both = Condition(torch.cat([condition.context, empty.context]), torch.cat([condition.pooled, empty.pooled]))
    for timestep in scheduler.timesteps:
        times = timestep.expand(2 * len(latents))
        with_text, without = model.predict(torch.cat([latents, latents]), times, both).chunk(2)
        v = without + guidance * (with_text - without)
        latents = scheduler.step(v, timestep, latents).prev_sample
    return latents
