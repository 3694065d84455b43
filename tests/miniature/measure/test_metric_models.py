"""The small networks of metrics: trained for two steps, written, and read by the metrics as the public files are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from miniature.comfyui.host import find_tokenizer
from miniature.measure.metric_models import (
    clip_network,
    dino_network,
    drawn_images,
    image_reward_network,
    pick_score_network,
    preference_pairs,
    vision_start,
)
from miniature.measure.metric_models.drawn_images import DrawnBatch, DrawnImages
from miniature.measure.metric_models.preference_pairs import draw_pairs, matches, prompt_between
from miniature.world.image_blocks import training_blocks
from miniature.world.people import SPLITS
from miniature.world.scenes import Scene
from training.engine.config import TrainConfig
from training.evaluation.metrics.clip_similarity import ClipSimilarity
from training.evaluation.metrics.dino_similarity import DinoSimilarity
from training.evaluation.metrics.image_reward import ImageReward
from training.evaluation.metrics.metric import PersonSample
from training.evaluation.metrics.pick_score import PickScore

SHORT = TrainConfig(steps=2, learning_rate=1e-3, warmup=2, ema=0.5, save_every=1)
PROMPTS = ("a portrait of a person, smiling, red shirt, dark background", "a portrait of a person, white shirt")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_images, "PEOPLE", drawn_images.PEOPLE[:6])
        patch.setattr(drawn_images, "IMAGES", 2)
        for module in (clip_network, dino_network, image_reward_network, pick_score_network):
            patch.setattr(module, "BATCH", 3)
        yield DrawnImages(tmp_path_factory.mktemp("build"), 1)


@pytest.fixture(scope="module")
def clip(images, tmp_path_factory):
    return clip_network.train_clip(images, tmp_path_factory.mktemp("states"), find_tokenizer(), SHORT)


@pytest.fixture
def sample(images):
    drawn = images.draw(3, torch.Generator().manual_seed(0)).images
    return PersonSample(list(drawn[:2]), PROMPTS, [drawn[2]])


def test_nobody_else_learns_from_the_people_and_nobody_is_held_out():
    drawn = set(range(drawn_images.PEOPLE[0], SPLITS["train"].stop))
    assert not drawn & {who for block in training_blocks() for who in block.people}
    assert drawn <= set(SPLITS["train"])


def test_clip_is_read_as_a_public_clip_is(clip, sample, tmp_path):
    clip_network.save_clip(clip, tmp_path / "clip", find_tokenizer())
    metric = ClipSimilarity.open(tmp_path / "clip")
    scores = metric.score(sample)
    assert list(scores) == list(metric.columns)
    pixels = clip_network.normalized(torch.from_numpy(np.stack(sample.images)).permute(0, 3, 1, 2) / 255.0)
    tokens = clip_network.tokenized(metric.clip.tokenizer, PROMPTS)
    with torch.no_grad():
        logits = clip(pixel_values=pixels, **tokens).logits_per_image.diagonal()
    expected = (logits / clip.logit_scale.exp()).detach().numpy()
    assert scores[metric.text_column] == pytest.approx(expected, abs=1e-4)


def test_pick_score_starts_from_clip_and_is_read_as_the_public_one_is(clip, images, sample, tmp_path):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    trained = pick_score_network.train_pick_score(clip, images, tmp_path / "states", find_tokenizer(), SHORT)
    clip_network.save_clip(trained, tmp_path / "pick_score", find_tokenizer())
    metric = PickScore.open(tmp_path / "pick_score")
    assert np.isfinite(metric.score(sample)["PickScore"]).all()
    moved = [name for name, value in metric.clip.model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2


def test_image_reward_is_read_as_the_official_files_are(images, sample, tmp_path):
    network = image_reward_network.train_image_reward(images, tmp_path / "states", SHORT)
    image_reward_network.save_image_reward(network, tmp_path / "image_reward")
    metric = ImageReward.open(tmp_path / "image_reward")
    own, read = network.state_dict(), metric.network.state_dict()
    assert own.keys() == read.keys()
    assert all(torch.equal(own[name], read[name]) for name in own)
    assert np.isfinite(metric.score(sample)["ImageReward"]).all()


def test_every_word_of_a_prompt_is_in_the_vocabulary():
    tokenizer = image_reward_network.bert_tokenizer(image_reward_network.vocabulary())
    tokens = tokenizer(list(PROMPTS), padding=True, return_tensors="pt").input_ids
    assert tokenizer.unk_token_id not in tokens
    assert len(tokens[0].unique()) > 8


def test_dino_goes_on_where_it_was_interrupted(images, sample, tmp_path):
    longer = replace(SHORT, steps=4, ema=0.0)
    whole = dino_network.train_dino(images, tmp_path / "whole", longer)
    dino_network.train_dino(images, tmp_path / "parts", replace(longer, steps=2))  # in the warmup all rates are equal
    resumed = dino_network.train_dino(images, tmp_path / "parts", longer)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    dino_network.save_dino(whole, tmp_path / "dino")
    metric = DinoSimilarity.open(tmp_path / "dino")
    assert metric.preprocessing.resize == 128
    assert np.isfinite(next(iter(metric.score(sample).values()))).all()


def test_every_prototype_has_its_share():
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 3, 8)
    shares = dino_network.balanced(logits)
    assert torch.allclose(shares.sum(1), torch.ones(64), atol=1e-5)
    assert (shares.sum(0) / 8.0 - 1.0).abs().max() < 0.1
    assert logits.softmax(1).sum(0).max() > 16.0


def test_patches_are_whitened_and_positions_differ(images):
    pixels = clip_network.normalized(vision_start.sample_pixels(images))
    conv = torch.nn.Conv2d(3, 12, 16, stride=16)
    positions = torch.zeros(64, 12)
    vision_start.start_vision(conv, positions, pixels)
    with torch.no_grad():
        responses = conv(pixels).transpose(0, 1).flatten(1)
    assert (responses.std(1) > 0.7).all()
    assert (responses.std(1) < 1.05).all()
    assert torch.corrcoef(responses).fill_diagonal_(0.0).abs().max() < 1e-2
    assert torch.cdist(positions, positions).fill_diagonal_(1.0).min() > 0.1


def test_heads_learn_what_captions_name():
    scenes = [Scene(expression="smiling", background="dark"), Scene(hat="wearing a straw hat")]
    heads = vision_start.AttributeHeads(2)
    optimizer = torch.optim.Adam(heads.parameters(), 0.1)
    for _ in range(40):
        loss, right = heads(torch.eye(2), scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(right) == 1.0


def test_crops_are_squares_of_the_image():
    ramp = torch.linspace(0, 1, 128).expand(4, 3, 128, 128)
    crops = dino_network.random_crops(ramp, 56, (0.25, 0.25), torch.Generator().manual_seed(0))
    assert crops.shape == (4, 3, 56, 56)
    slopes = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) * dino_network.IMAGENET_STD[0]
    assert (slopes > 0.3).all()  # half of the side, times a gain of 0.7 to 1.3, less what is cut off above 1
    assert (slopes < 0.66).all()
    assert torch.allclose(crops[:, :, 0], crops[:, :, -1], atol=1e-4)


def test_preferred_is_what_shows_more_of_the_prompt_and_of_equals_the_sharper_one(monkeypatch):
    first, second = Scene(expression="smiling", background="dark"), Scene(hat="wearing a straw hat")
    monkeypatch.setattr(preference_pairs, "softened_pixels", lambda images, _: torch.from_numpy(images))
    noise = np.random.default_rng(0).random((2, 3, 30, 30), np.float32)

    class Two:
        def draw(self, count, generator):
            return DrawnBatch(noise, (0, 1), (first, second))

    seen = set()
    for seed in range(30):
        prompt = prompt_between(first, second, torch.Generator().manual_seed(seed))
        pairs = draw_pairs(Two(), 1, torch.Generator().manual_seed(seed))
        lead = matches(first, prompt) - matches(second, prompt)
        seen.add(np.sign(lead))
        assert torch.equal(pairs.preferred[0], torch.from_numpy(noise[0 if lead >= 0 else 1]))
        assert pairs.scenes == [[first, second][lead < 0], [second, first][lead < 0] if lead else first]
        if lead == 0:
            assert pairs.other[0].std() < 0.7 * pairs.preferred[0].std()
        else:
            assert torch.equal(pairs.other[0], torch.from_numpy(noise[1 if lead > 0 else 0]))
    assert seen == {-1, 0, 1}
