"""Change of weights and differentiation of units against slow references."""

import math

import numpy as np
import pytest
import torch

from microtome.core.errors import MicrotomeError
from microtome.measures.weight_change import (
    cosine_similarity,
    differentiation,
    random_cosine,
    unit_cosines,
    weight_change_magnitude,
)


def test_change_by_hand():
    before, after = np.array([[3.0, 4.0]]), torch.tensor([[3.0, 1.0]], requires_grad=True)
    assert weight_change_magnitude(before, after) == pytest.approx(
        {
            "l2_norm": 3.0,
            "relative_change": 0.6,
            "max_change": 3.0,
            "mean_change": 1.5,
            "cosine_similarity": 13 / (5 * math.sqrt(10)),
        }
    )


def test_change_from_nothing_is_not_infinite():
    found = weight_change_magnitude(np.zeros(3), np.ones(3))
    assert math.isnan(found["relative_change"]) and found["cosine_similarity"] == 0
    assert weight_change_magnitude(np.zeros(3), np.zeros(3))["relative_change"] == 0


def test_cosine():
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert cosine_similarity(x, x) == 1 and cosine_similarity(x, -2 * x) == -1
    assert cosine_similarity([1, 0], [0, 5]) == 0 == cosine_similarity([0, 0], [1, 1])
    with pytest.raises(MicrotomeError, match=r"shapes \[3, 4\] and \[4, 3\]"):
        cosine_similarity(x, x.T)


@pytest.mark.parametrize("shape", [(5, 3, 2, 2), (4, 9), (9, 4)])
def test_differentiation_against_every_pair(shape):
    w = np.random.default_rng(1).normal(size=shape)
    rows = [row.ravel() / np.linalg.norm(row) for row in w]
    pairs = [abs(a @ b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    found = differentiation(w)
    assert found["mean_abs_cosine"] == pytest.approx(np.mean(pairs))
    values = np.linalg.eigvalsh(np.array(rows) @ np.array(rows).T)
    assert found["effective_units"] == pytest.approx(values.sum() ** 2 / (values**2).sum())


def test_copies_and_dead_units():
    found = differentiation(np.ones((4, 3)))
    assert found["mean_abs_cosine"] == pytest.approx(1) and found["effective_units"] == pytest.approx(1)
    found = differentiation(np.vstack([np.eye(3), np.zeros((2, 3))]))
    assert found["mean_abs_cosine"] == 0 and found["effective_units"] == pytest.approx(3)


def test_chance_is_that_of_random_directions():
    rng = np.random.default_rng(2)
    for d in (2, 9, 100):
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 20000, d)))
        assert random_cosine(d) == pytest.approx(np.abs((a * b).sum(1)).mean(), rel=0.03)


def test_each_unit_with_itself():
    before = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    after = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert unit_cosines(before, after).tolist() == [0, 1, 0]
