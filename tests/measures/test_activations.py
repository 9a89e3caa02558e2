"""Sparsity and selectivity against values worked by hand, and against chance."""

import numpy as np
import pytest
import torch

from microtome.core.errors import MicrotomeError
from microtome.measures.activations import activation_selectivity, activation_sparsity, class_information


def test_sparsity():
    x = np.array([[0.0, 0.1, -0.05, 3.0], [0.2, -0.5, 0.0, 0.09]])
    assert activation_sparsity(x) == 5 / 8
    assert activation_sparsity(torch.tensor(x, requires_grad=True), threshold=0.3) == 6 / 8
    assert activation_sparsity(x, relative=True) == activation_sparsity(1000 * x, relative=True)


def test_class_means_and_an_absent_class():
    x = np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 7.0]])
    means = activation_selectivity(x, [0, 0, 2])
    assert means.shape == (2, 3)
    np.testing.assert_array_equal(means[:, 0], [2, 0])
    np.testing.assert_array_equal(means[:, 2], [5, 7])
    assert np.isnan(means[:, 1]).all(), "no samples, no mean"


def test_information_is_1_when_the_class_decides_and_0_by_chance():
    y = np.arange(200) % 4
    decided = np.stack([y, -(y**2)], 1).astype(float)
    np.testing.assert_allclose(class_information(decided, y), 1)
    chance = class_information(np.random.default_rng(0).normal(size=(200, 4000)), y)
    # without the correction the mean would be 3 / 199 = 0.015
    assert abs(chance.mean()) < 0.002
    assert (class_information(np.ones((200, 2)), y) == 0).all()


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.ones((3, 2, 2)), [0, 1, 2], "not two axes"),
        (np.ones((3, 2)), [0, 1], "one class number"),
        (np.ones((3, 2)), [0, 1, -1], "whole numbers"),
        (np.ones((3, 2)), [0.5, 1, 2], "whole numbers"),
        (np.ones((0, 2)), [], "no samples"),
    ],
)
def test_bad_labels(x, y, said):
    with pytest.raises(MicrotomeError, match=said):
        activation_selectivity(x, np.array(y))


def test_information_needs_two_classes():
    with pytest.raises(MicrotomeError, match="two classes"):
        class_information(np.ones((3, 2)), [1, 1, 1])
