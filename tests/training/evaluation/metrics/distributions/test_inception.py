"""Inception against torchvision's network with the known differences, and the original graph's resizing."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models import inception as torchvisions

from tests.training.evaluation.small_models import noise
from training.evaluation.metrics.distributions.inception import Inception
from training.evaluation.metrics.distributions.inception_features import InceptionFeatures, tensorflow_resize


@pytest.fixture(scope="module")
def official():
    """torchvision's network with as many classes as the public weights; their names are its names."""
    torch.manual_seed(0)
    network = torchvisions.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):  # so large that the image still shows in the last layer
            tensor.normal_(0.0, (2.0 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.uniform_(-0.2, 0.2, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network(official):
    return Inception.from_official(official.state_dict())


def graph_features(official, pixels, monkeypatch):
    """torchvision's network with the graph's pooling: averages without padding, in the last block the maximum."""
    average = F.avg_pool2d
    x = official.maxpool1(official.Conv2d_2b_3x3(official.Conv2d_2a_3x3(official.Conv2d_1a_3x3(pixels))))
    x = official.maxpool2(official.Conv2d_4a_3x3(official.Conv2d_3b_1x1(x)))
    with monkeypatch.context() as patched:
        patched.setattr(F, "avg_pool2d", lambda x, **sizes: average(x, **sizes, count_include_pad=False))
        for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b"):
            x = official.get_submodule(f"Mixed_{block}")(x)
    with monkeypatch.context() as patched:
        patched.setattr(F, "avg_pool2d", F.max_pool2d)
        return official.Mixed_7c(x).mean((2, 3))


def test_features_are_torchvisions_with_the_graphs_pooling(official, network, monkeypatch):
    pixels = torch.rand(2, 3, 107, 107, generator=torch.Generator().manual_seed(2)) * 2 - 1
    expected = graph_features(official, pixels, monkeypatch)
    assert expected.shape == (2, 2048)
    assert float((expected[0] - expected[1]).abs().mean()) > 0.01 * float(expected.std())
    torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-4)


def test_counters_may_be_missing(official, network):
    state = {name: tensor for name, tensor in official.state_dict().items() if "num_batches" not in name}
    pixels = torch.zeros(1, 3, 80, 80)
    assert torch.equal(Inception.from_official(state)(pixels), network(pixels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Mixed_5b.branch1x1.conv.weight": None}, "lacks 1 tensors, first Mixed_5b.branch1x1.conv.weight"),
        ({"AuxLogits.conv0.conv.weight": torch.zeros(1)}, "has unknown 1 tensors, first AuxLogits"),
        ({"Mixed_7c.branch_pool.bn.bias": torch.zeros(7)}, r"branch_pool.bn.bias is \(7,\), expected \(192,\)"),
    ],
)
def test_other_weights_are_refused(official, change, message):
    state = {name: tensor for name, tensor in (official.state_dict() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        Inception.from_official(state)


def test_a_file_gives_features_of_images(official, network, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(official.state_dict(), path)
    images = noise(1, 64, 48)
    features = InceptionFeatures.open(path)
    assert str(path) in features.description.model
    expected = network((tensorflow_resize(images[0], 299) - 128.0) / 128.0)
    torch.testing.assert_close(features(images), expected)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent.pth; torch-fidelity publishes"):
        InceptionFeatures.open(tmp_path / "absent.pth")


@pytest.mark.parametrize("size", [(64, 48), (299, 299), (512, 700)])
def test_resizing_is_linear_between_the_first_pixels_corners(size):
    image = noise(1, *size)[0]

    def stretched(rows):
        positions = np.arange(299) * len(rows) / 299
        return np.stack([np.interp(positions, np.arange(len(rows)), row) for row in rows.reshape(len(rows), -1).T], -1)

    across = stretched(image.transpose(1, 0, 2).astype(np.float64)).reshape(299, size[0], 3)  # (x, height, 3)
    expected = stretched(across.transpose(1, 0, 2)).reshape(299, 299, 3)  # (y, x, 3)
    found = tensorflow_resize(image, 299)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 2e-2  # positions are float32, as they are in the graph
