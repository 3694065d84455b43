"""Stage `base`: what weighs in the loss, and which parts a run trains."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from miniature.base_model.config import IMAGE_SIZE, LATENT_SHAPE, LATENT_SIZE
from miniature.base_model.model import TinySDXL, Tokenizer, used_tokens
from miniature.base_model.train import (
    EYES,
    EYES_AND_FACE,
    RUNS,
    BaseLoss,
    LittleNoise,
    PlaceWeights,
    loss_weights,
    scene_weights,
    train_run,
)
from miniature.comfyui.host import find_tokenizer
from miniature.world.drawing import landmarks_and_box
from miniature.world.image_blocks import training_blocks
from miniature.world.people import person
from miniature.world.scenes import Scene, training_scene


@pytest.mark.parametrize("places", [EYES, EYES_AND_FACE])
def test_latents_nearest_to_an_eye_weigh_most_and_the_mean_is_one(places):
    weights = scene_weights(3, Scene(), places)[0]
    landmarks, _ = landmarks_and_box(person(3), Scene())
    for x, y in landmarks[:2]:
        row, column = (int(value / IMAGE_SIZE * LATENT_SIZE) for value in (y, x))
        assert weights[row, column] > weights.flatten().sort().values[-9], "among the eight heaviest"
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_the_face_weighs_more_than_what_is_around_it():
    weights = scene_weights(3, Scene(), PlaceWeights(eyes=0.0, width=1.0, face=3.0))[0]
    assert weights.unique().numel() == 2
    torch.testing.assert_close(weights.max() / weights.min(), torch.tensor(4.0))
    landmarks, _ = landmarks_and_box(person(3), Scene())
    x, y = (landmarks[2] / IMAGE_SIZE * LATENT_SIZE).astype(int)  # the nose
    assert weights[y, x] == weights.max()
    assert weights[0, 0] == weights.min()


def test_the_weights_of_an_image_are_those_of_its_scene():
    assert torch.equal(loss_weights(3, 5, EYES_AND_FACE), scene_weights(3, training_scene(3, 5), EYES_AND_FACE))


def test_a_share_of_the_timesteps_is_where_there_is_little_noise():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1000, (4000,), generator=generator)
    lowered = LittleNoise(550, 0.8).lower(drawn, generator)
    moved = lowered != drawn
    assert 0.77 < moved.float().mean() < 0.83
    assert lowered[moved].max() < 550
    assert lowered[moved].min() < 10
    assert lowered[~moved].max() > 990


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A scratch folder with random latents of one block of people."""
    block = training_blocks()[0]
    latents = torch.randn(*block.shape, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0)).half()
    (tmp_path / "latents").mkdir()
    save_file({"latents": latents}, tmp_path / "latents" / f"{block.name}.safetensors")
    return tmp_path


def test_the_last_run_trains_the_unet_alone(build):
    tokenizer = Tokenizer(find_tokenizer())
    torch.manual_seed(0)
    model = TinySDXL(used_tokens(tokenizer))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = replace(RUNS[-1], config=replace(RUNS[-1].config, steps=1, warmup=0, ema=0.0, mixed_precision="no"))
    train_run(run, model, tokenizer, build)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"unet"}


def test_errors_where_the_weights_are_high_cost_more(build):
    """The same errors, once at the face and once elsewhere, in a run that weighs faces."""

    class Wrong(torch.nn.Module):
        """Predicts something far off in one half of the latent."""

        def __init__(self, rows: slice) -> None:
            super().__init__()
            self.rows = rows

        def forward(self, noisy, timesteps, ids):
            predicted = torch.zeros_like(noisy)
            predicted[:, :, self.rows] = 100.0
            return predicted

    loss = BaseLoss(RUNS[-1], Tokenizer(find_tokenizer()), build)
    top, middle = (
        float(loss(Wrong(rows), 0, torch.Generator().manual_seed(0))[0]) for rows in (slice(0, 4), slice(7, 11))
    )
    assert middle > 2 * top
