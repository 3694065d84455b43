"""CLIP-I, CLIP-T and PickScore against the logits of CLIP's own forward pass."""

import json

import numpy as np
import pytest
import torch

from tests.training.evaluation.small_models import PROMPTS, noise, write_clip, write_dino
from training.evaluation.metrics.clip_similarity import ClipSimilarity
from training.evaluation.metrics.metric import PersonSample
from training.evaluation.metrics.pick_score import PickScore

SAMPLE = PersonSample(noise(3), PROMPTS, noise(2, seed=1), noise(4, 64, 64, seed=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def forward(folder, images, texts):
    """Logits (texts, images) of CLIPModel.forward and the scale in them, with the original code's preprocessing."""
    from PIL import Image
    from torchvision import transforms
    from transformers import CLIPModel, CLIPTokenizer

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(32, interpolation=bicubic), transforms.CenterCrop(32), transforms.ToTensor()]
    statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    prepare = transforms.Compose([*steps, transforms.Normalize(*statistics)])
    model = CLIPModel.from_pretrained(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**tokens, pixel_values=torch.stack([prepare(Image.fromarray(image)) for image in images]))
    return found, model.logit_scale.exp()


def test_clip_t_is_the_logit_without_its_scale(folder):
    found, scale = forward(folder, SAMPLE.images, PROMPTS)
    expected = (found.logits_per_text.diagonal() / scale).detach().numpy()
    assert ClipSimilarity.open(folder).score(SAMPLE)["CLIP-T ViT-32/16"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["references", "other images"])
def test_clip_i_is_the_mean_cosine_of_all_pairs(folder, kind):
    real = SAMPLE.references if kind == "references" else SAMPLE.others
    generated, known = (forward(folder, images, PROMPTS)[0].image_embeds for images in (SAMPLE.images, real))
    expected = [np.mean([float(torch.dot(image, one)) for one in known]) for image in generated]
    scores = ClipSimilarity.open(folder).score(SAMPLE)
    assert scores[f"CLIP-I ViT-32/16, {kind}"] == pytest.approx(expected, abs=1e-6)


def test_pick_score_is_the_logit(folder):
    expected = forward(folder, SAMPLE.images, PROMPTS)[0].logits_per_text.diagonal().detach().numpy()
    assert PickScore.open(folder).score(SAMPLE)["PickScore"] == pytest.approx(expected, abs=1e-5)


def test_without_other_images_their_column_is_nan(folder):
    scores = ClipSimilarity.open(folder).score(PersonSample(SAMPLE.images, PROMPTS, SAMPLE.references))
    assert np.isnan(scores["CLIP-I ViT-32/16, other images"]).all()


def test_columns_are_those_of_the_scores(folder):
    for metric in (ClipSimilarity.open(folder), PickScore.open(folder)):
        assert list(metric.columns) == list(metric.score(SAMPLE))
        assert str(folder) in metric.description.model


@pytest.mark.parametrize(("width", "patch", "name"), [(768, 32, "ViT-B/32"), (1024, 14, "ViT-L/14")])
def test_names_of_the_public_models(folder, width, patch, name):
    clip = ClipSimilarity.open(folder).clip
    clip.model.config.vision_config.hidden_size = width
    clip.model.config.vision_config.patch_size = patch
    assert clip.vit == name


def test_a_long_prompt_is_cut(folder):
    sample = PersonSample(SAMPLE.images[:1], ["a photo of a person " * 60], SAMPLE.references)
    assert np.isfinite(PickScore.open(folder).score(sample)["PickScore"]).all()


def test_a_model_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"of CLIP-I and CLIP-T is missing: nobody/nothing.*hf download"):
        ClipSimilarity.open("nobody/nothing")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_clip(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        PickScore.open(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    write_clip(tmp_path)
    write_dino(tmp_path)
    with pytest.raises(ValueError, match=r"the PickScore model: .*of type vit, expected clip"):
        PickScore.open(tmp_path)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[]", "of type list, expected clip")])
def test_a_damaged_configuration_is_refused(tmp_path, content, message):
    (write_clip(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        PickScore.open(tmp_path)


def test_missing_weights_are_not_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    path = write_clip(tmp_path) / "model.safetensors"
    state = load_file(path)
    del state["text_projection.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors, first text_projection.weight"):
        PickScore.open(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = write_clip(tmp_path) / "model.safetensors"
    state = load_file(path)
    state["visual_projection.weight"][0, 0] = torch.nan
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"visual_projection.weight holds NaN"):
        PickScore.open(tmp_path)


def test_an_oblong_crop_is_refused(tmp_path):
    path = write_clip(tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": {"height": 32, "width": 48}}))
    with pytest.raises(ValueError, match="expected a square crop"):
        PickScore.open(tmp_path)
