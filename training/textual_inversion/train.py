"""The training: the vectors of one token, by the diffusion loss of the frozen base model."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.base_model.checkpointed_unet import checkpointed
from training.base_model.diffusion_loss import DiffusionLoss
from training.base_model.interface import BaseModel
from training.base_model.person_images import PersonImages

from .config import PERSON, TextualInversionConfig

TOKEN = "<person>"
"""In place of {person}, in captions and prompts."""


def train_token(
    base: BaseModel, name: str, latents: Tensor, size: int, word: str, config: TextualInversionConfig
) -> dict[str, Tensor]:
    """Train the vectors of a person's token, from the class word's embedding on, with a progress bar.

    Args:
        base: Frozen.
        name: Of the person.
        latents: Of the person's images (images, channels, h, w).
        size: Pixels of a side of the images.
        word: The class word, one token.
        config: How.

    Returns:
        Vectors (vectors, width) float32 for each text encoder.

    Raises:
        ValueError: The class word is more than one token, or the training ended in NaN.
    """
    start = {key: vector.repeat(config.vectors, 1) for key, vector in base.word_vectors(word).items()}
    vectors = {key: nn.Parameter(vector.to(base.device)) for key, vector in start.items()}
    captions = [caption.replace(PERSON, TOKEN) for caption in config.captions]

    def predict(noisy: Tensor, timesteps: Tensor, text_rows: Tensor) -> Tensor:
        texts = base.encode_text([captions[row] for row in text_rows.tolist()])
        return base.predict(noisy, timesteps, texts, size)

    # Every image with every caption: a pass goes through all pairs
    rows = torch.arange(len(captions)).repeat(len(latents))
    pairs = PersonImages.complete(name, latents.to(base.device).repeat_interleave(len(captions), 0), rows)
    loss = DiffusionLoss(predict, base.scheduler(), [pairs], config.images_per_step, config.seed)
    optimizer = torch.optim.AdamW(
        vectors.values(), lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=config.weight_decay
    )
    progress = tqdm(range(config.steps), desc=f"textual inversion, {name}", leave=False, disable=None)
    with base.added_token(TOKEN, vectors), checkpointed(base.unet, config.gradient_checkpointing):
        for step in progress:
            optimizer.zero_grad(set_to_none=True)
            value = loss(step).sum()
            value.backward()
            optimizer.step()
            progress.set_postfix(loss=f"{value.item():.4g}", refresh=False)
    trained = {key: vector.detach().cpu() for key, vector in vectors.items()}
    if not all(vector.isfinite().all() for vector in trained.values()):
        raise ValueError(f"the token of {name} ended in NaN: lower learning_rate")
    return trained
