import numpy as np
import pytest
import torch
from torch import nn

from microtome.core.errors import Diverged, MicrotomeError
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.image_network import ImageNetwork
from microtome.training.adaptation import adapt, features, few_shot_accuracy, with_head


def linear_network(n_classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, n_classes))


def support():
    return torch.randn(9, 1, 4, 4), torch.arange(3).repeat(3)


def test_adaptation_is_gradient_descent_on_softmax_regression():
    module, (x, y) = linear_network(), support()
    before = [value.clone() for value in module.state_dict().values()]
    adapted = adapt(module, x, y, steps=5, lr=0.3, n_classes=3)
    weight, bias = (value.numpy().astype(float) for value in before)
    rows, wanted = x.flatten(1).numpy().astype(float), np.eye(3)[y.numpy()]
    for _ in range(5):
        scores = np.exp(rows @ weight.T + bias)
        error = (scores / scores.sum(1, keepdims=True) - wanted) / len(rows)
        weight, bias = weight - 0.3 * error.T @ rows, bias - 0.3 * error.sum(0)
    np.testing.assert_allclose(adapted[1].weight.numpy(), weight, atol=1e-5)  # type: ignore[index]
    np.testing.assert_allclose(adapted[1].bias.numpy(), bias, atol=1e-5)  # type: ignore[index]
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before, strict=True))
    assert not any(each.requires_grad for each in adapted.parameters()) and not adapted.training


def test_fresh_head_knows_nothing_and_centroids_are_nearest_in_cosine():
    module, (x, y) = FewShotConvNet(channels=4, blocks=2, image_size=4, n_classes=7).eval(), support()
    fresh = with_head(module, x, y, 3, "fresh")
    assert torch.equal(fresh(x), torch.zeros(9, 3))
    centroid = adapt(module, x, y, steps=0, lr=1.0, n_classes=3, head="centroid")
    queries = torch.randn(20, 1, 4, 4)
    rows, learnt = features(module, queries).numpy(), features(module, x).numpy()
    np.testing.assert_allclose(learnt, module.features(x).detach().numpy())
    centres = np.stack([learnt[y.numpy() == k].mean(0) for k in range(3)])
    cosines = (rows @ centres.T) / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(centres, axis=1)
    assert centroid(queries).argmax(1).tolist() == cosines.argmax(1).tolist()


def test_own_head_of_another_width_and_too_large_steps_are_refused():
    x, y = support()
    with pytest.raises(MicrotomeError, match="has 7 outputs for 3 classes; use fresh"):
        adapt(linear_network(7), x, y, steps=1, lr=0.1, n_classes=3)
    with pytest.raises(Diverged, match="learning rate 1e"):
        adapt(FewShotConvNet(4, 2, 1, 4, 3, "none"), x, y, steps=30, lr=1e20, n_classes=3)


def two_kinds_of_images(separable: bool) -> LabelledImages:
    y = np.arange(80) % 4
    pixels = torch.rand(80, 1, 4, 4) * (0.2 if separable else 1)
    if separable:
        pixels[np.arange(80), 0, y] += 0.8
    return LabelledImages(pixels, {"kind": Labels(y, tuple("abcd"))}, tuple(map(str, range(80))), "made here")


@pytest.mark.parametrize(("separable", "low", "high"), [(True, 0.99, 1.0), (False, 0.4, 0.6)])
def test_accuracy_of_classes_that_can_and_that_cannot_be_told_apart(separable, low, high):
    network = ImageNetwork(linear_network(2), "linear")
    values = few_shot_accuracy(
        network, two_kinds_of_images(separable), "kind", ways=2, shots=5, queries=10, episodes=40, steps=20,
        lr=0.3, head="fresh", generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert values.shape == (40,) and low <= values.mean() <= high


def test_a_network_that_learned_rates_adapts_by_them():
    class Rated(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten())
            self.classifier = nn.Linear(16, 3)
            self.lr_classifier = nn.Parameter(torch.tensor([0.05]))

    rated, (x, y) = Rated(), support()
    plain = nn.Sequential(nn.Flatten(), rated.classifier)
    expected = adapt(plain, x, y, steps=3, lr=0.05, n_classes=3)
    adapted = adapt(rated, x, y, steps=3, lr=99.0, n_classes=3)
    torch.testing.assert_close(adapted(x), expected(x))
    assert float(adapted.lr_classifier) == pytest.approx(0.05)  # type: ignore[arg-type]
