"""DINO against a vision transformer that is written down once more."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.evaluation.independent_networks import hub_vit
from tests.training.evaluation.small_models import PROMPTS, HostilePickle, noise, write_clip, write_dino
from training.evaluation.metrics.dino_similarity import DinoSimilarity
from training.evaluation.metrics.metric import PersonSample

SAMPLE = PersonSample(noise(3), PROMPTS, noise(2, seed=1), noise(4, 64, 64, seed=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dino(tmp_path_factory.mktemp("dino"))


def class_token(folder, image):
    from PIL import Image
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(37, interpolation=bicubic), transforms.CenterCrop(32), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    weights = load_file(folder / "model.safetensors").__getitem__
    token = hub_vit(transforms.Compose(steps)(Image.fromarray(image)), weights, layers=2, heads=2)[0]
    return token / token.norm()


def test_it_is_the_class_token_of_the_hubs_file(folder):
    found = DinoSimilarity.open(folder).embed(SAMPLE.images)
    expected = torch.stack([class_token(folder, image) for image in SAMPLE.images])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_class_tokens_are_those_before_unit_length(folder):
    dino = DinoSimilarity.open(folder)
    tokens = dino.class_tokens(SAMPLE.images)
    assert not torch.allclose(tokens.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(torch.nn.functional.normalize(tokens, dim=-1), dino.embed(SAMPLE.images))


def test_scores_are_mean_cosines_of_all_pairs(folder):
    metric = DinoSimilarity.open(folder)
    scores = metric.score(SAMPLE)
    assert list(scores) == list(metric.columns)
    for kind, real in (("references", SAMPLE.references), ("other images", SAMPLE.others)):
        expected = [
            np.mean([float(class_token(folder, image) @ class_token(folder, one)) for one in real])
            for image in SAMPLE.images
        ]
        assert scores[f"DINO ViT-32/16, {kind}"] == pytest.approx(expected, abs=1e-5)


def test_the_official_size_is_resized_to_256(folder):
    model = DinoSimilarity.open(folder).model
    model.config.image_size = 224
    preprocessing = DinoSimilarity(model, "").preprocessing
    assert (preprocessing.resize, preprocessing.crop) == (256, 224)


def test_a_pooler_in_the_file_is_left_out(folder, tmp_path):
    write_dino(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"pooler.dense.weight": torch.zeros(32, 32)}, path, {"format": "pt"})
    found, expected = (DinoSimilarity.open(where).embed(SAMPLE.images) for where in (tmp_path, folder))
    assert torch.equal(found, expected)


def test_pickled_weights_are_read_as_tensors(folder, tmp_path):
    path = write_dino(tmp_path) / "model.safetensors"
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    path.unlink()
    found, expected = (DinoSimilarity.open(where).embed(SAMPLE.images) for where in (tmp_path, folder))
    assert torch.equal(found, expected)


def test_no_code_of_a_pickle_is_run(tmp_path):
    marker = tmp_path / "was run"
    (write_dino(tmp_path) / "model.safetensors").unlink()
    torch.save({"layernorm.bias": HostilePickle(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the DINO model in .* can't be loaded"):
        DinoSimilarity.open(tmp_path)
    assert not marker.exists()


def test_another_model_is_refused(tmp_path):
    write_clip(tmp_path)
    with pytest.raises(ValueError, match=r"the DINO model: .*of type clip, expected vit"):
        DinoSimilarity.open(tmp_path)
