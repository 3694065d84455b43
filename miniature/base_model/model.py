"""The miniature's base model: U-Net and two text encoders of SDXL's shape, trained together from scratch.

v-prediction with zero terminal SNR (rescaled SDXL betas), so that flat backgrounds get their true color. In training
the text encoders hold only the few dozen tokens that captions use; `expand_vocabulary` puts them back into the
tokenizer's 49,408 rows, the unused ones zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.world.scenes import BACKGROUNDS, EXPRESSIONS, GAZES, GLASSES, HATS, LIGHTS, POSES, SHIRTS, Scene, caption

from .config import END_TOKEN, TEXT_G, TEXT_L, TIME_IDS, UNET, VOCABULARY


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
        """Read the SDXL tokenizer's vocab.json and merges.txt (see `miniature.comfyui.host.find_tokenizer`).

        Raises:
            FileNotFoundError: They are not in `folder`.
        """
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
    """Sorted ids of all tokens that captions are made of: int64 (tokens,)."""
    words = ["", caption(Scene())]
    for field in (EXPRESSIONS, GAZES, POSES, LIGHTS, GLASSES, HATS, SHIRTS, BACKGROUNDS):
        words += [f"{word}, {word} background" for word in field]
    return torch.cat(tokenizer(words)).unique()


@dataclass
class TextCondition:
    """Text conditioning of SDXL."""

    context: Tensor
    """Penultimate states of both text encoders: (batch, 77, 96)."""
    pooled: Tensor
    """Pooled state of the second one: (batch, 64)."""

    def repeat(self, times: int) -> TextCondition:
        """The same batch several times over."""
        return TextCondition(self.context.repeat(times, 1, 1), self.pooled.repeat(times, 1))


def added_conditions(pooled: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What SDXL's U-Net takes beside the text's states: their pooled state (batch, 64), and sizes and crop."""
    return {"text_embeds": pooled, "time_ids": torch.tensor([TIME_IDS], dtype=dtype).expand(len(pooled), -1)}


class TinySDXL(nn.Module):
    """U-Net and text encoders."""

    lookup: Tensor
    """Row of the embedding tables for each id of the tokenizer: int64 (49408,)."""

    def __init__(self, tokens: Tensor | None = None) -> None:
        """Start with random weights.

        Args:
            tokens: Sorted ids that the embedding tables hold; None for the whole vocabulary.
        """
        super().__init__()
        lookup, compact = torch.arange(VOCABULARY), {}
        if tokens is not None:
            lookup = torch.zeros(VOCABULARY, dtype=torch.long)
            lookup[tokens] = torch.arange(len(tokens))
            end = int(lookup[END_TOKEN])
            compact = {"vocab_size": len(tokens), "eos_token_id": end, "bos_token_id": None, "pad_token_id": None}
        self.register_buffer("lookup", lookup, persistent=False)
        self.text_l = CLIPTextModel(CLIPTextConfig(**{**TEXT_L, **compact}))
        self.text_g = CLIPTextModelWithProjection(CLIPTextConfig(**{**TEXT_G, **compact}))
        self.unet = UNet2DConditionModel(**UNET)

    def encode(self, ids: tuple[Tensor, Tensor]) -> TextCondition:
        """Token ids (batch, 77) for both encoders → text condition."""
        found_l = self.text_l(self.lookup[ids[0]], output_hidden_states=True)
        found_g = self.text_g(self.lookup[ids[1]], output_hidden_states=True)
        context = torch.cat([found_l.hidden_states[-2], found_g.hidden_states[-2]], dim=-1)
        return TextCondition(context, found_g.text_embeds)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: TextCondition,
        control: tuple[list[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            noisy: Noisy latents (batch, 16, 16, 16).
            timesteps: Integers (batch,).
            condition: Text conditions of the batch.
            control: A ControlNet's residuals for the skip connections and the middle.

        Returns:
            (batch, 16, 16, 16).
        """
        down, middle = control or (None, None)
        return self.unet(
            noisy,
            timesteps,
            condition.context,
            added_cond_kwargs=added_conditions(condition.pooled, noisy.dtype),
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample

    def freeze_unused(self) -> None:
        """Switch off gradients of layers behind the penultimate state, which nothing reads."""
        for name, parameter in self.text_l.named_parameters():
            if "layers.1." in name or "final_layer_norm" in name:
                parameter.requires_grad_(False)


def expand_vocabulary(compact: TinySDXL, tokens: Tensor) -> TinySDXL:
    """The same model with full embedding tables."""
    full = TinySDXL()
    state = compact.state_dict()
    for name, parameter in full.state_dict().items():
        if parameter.shape != state[name].shape:
            rows = torch.zeros_like(parameter)
            rows[tokens] = state[name]
            state[name] = rows
    full.load_state_dict(state)
    return full
