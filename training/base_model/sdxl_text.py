"""SDXL's text conditioning, and tokens that are added to both text encoders (Textual Inversion, arXiv 2208.01618)."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .interface import TextEmbeddings

ENCODERS = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}
"""The pipeline's tokenizer and text encoder, by the name of an encoder's vectors in files of embeddings."""


class ExtendedEmbedding(nn.Module):
    """An embedding table with further rows, which may be trained while the table stays as it is."""

    def __init__(self, table: nn.Embedding, vectors: Tensor) -> None:
        super().__init__()
        self.table, self.vectors = table, vectors

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (…): (…, width) in the table's dtype."""
        own = ids - self.table.num_embeddings
        known = self.table(ids.clamp_max(self.table.num_embeddings - 1))
        return torch.where((own >= 0)[..., None], self.vectors.to(known)[own.clamp_min(0)], known)


def encode_text(pipeline: Any, captions: Sequence[str], device: torch.device) -> TextEmbeddings:
    """Encode captions: context (n, 77, width of both encoders) and pooled (n, width of the second encoder)."""
    context, _, pooled, _ = pipeline.encode_prompt(list(captions), device=device, do_classifier_free_guidance=False)
    return {"context": context, "pooled": pooled}


def word_vectors(pipeline: Any, word: str) -> dict[str, Tensor]:
    """Return a word's token embedding in each text encoder, float32 (1, width).

    Raises:
        ValueError: It is more than one token.
    """
    found = {}
    for name, (tokenizer_name, encoder_name) in ENCODERS.items():
        ids = getattr(pipeline, tokenizer_name)(word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens, expected a word that is one token")
        table = getattr(pipeline, encoder_name).get_input_embeddings().weight
        found[name] = table.detach()[ids].float().clone()
    return found


@contextmanager
def added_token(pipeline: Any, token: str, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, `token` in prompts stands for n tokens with these embeddings, as after diffusers' own loader.

    Unlike after that loader, the pooled state is that of the end token, as in ComfyUI: SDXL's configuration names a
    wrong end token, with which transformers takes the highest id's state, and added tokens have the highest ids.

    Args:
        pipeline: diffusers' SDXL pipeline.
        token: Lower case, and no text that prompts have otherwise.
        vectors: `clip_l` (n, width of the first encoder) and `clip_g` (n, width of the second one); gradients reach
            them.

    Raises:
        ValueError: The vectors are of other encoders or widths, or the token is known already.
    """
    if set(vectors) != set(ENCODERS):
        raise ValueError(f"found vectors {', '.join(sorted(vectors)) or 'of nothing'}, expected {', '.join(ENCODERS)}")
    with ExitStack() as changes:
        for name, (tokenizer_name, encoder_name) in ENCODERS.items():
            encoder, own = getattr(pipeline, encoder_name), vectors[name]
            tokenizer, table = getattr(pipeline, tokenizer_name), encoder.get_input_embeddings()
            if own.ndim != 2 or not len(own) or own.shape[1] != table.embedding_dim:
                raise ValueError(
                    f"{name} has the shape {tuple(own.shape)}, expected (vectors, {table.embedding_dim}) for this base "
                    "model"
                )
            extended = copy.deepcopy(tokenizer)
            extended.add_tokens([token, *(f"{token}_{number}" for number in range(1, len(own)))])
            if extended.convert_tokens_to_ids(token) != table.num_embeddings:
                raise ValueError(f"{token!r} is in the vocabulary of {tokenizer_name} already: choose another token")
            changes.callback(setattr, pipeline, tokenizer_name, tokenizer)
            setattr(pipeline, tokenizer_name, extended)
            changes.callback(encoder.set_input_embeddings, table)
            encoder.set_input_embeddings(ExtendedEmbedding(table, own))
            for module in encoder.modules():
                if hasattr(module, "eos_token_id"):
                    changes.callback(setattr, module, "eos_token_id", module.eos_token_id)
                    module.eos_token_id = tokenizer.eos_token_id
        yield
