"""Attention measures against values worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.measures.attention import (
    attention_entropy,
    attention_probabilities,
    attention_specialization,
    head_divergence,
    head_diversity,
    head_habits,
    kind_of,
)


def one_hot(batch=2, heads=3, n=4):
    return np.broadcast_to(np.eye(n), (batch, heads, n, n)).copy()


def test_one_hot_is_0_and_uniform_is_log_n():
    assert attention_entropy(one_hot()) == 0
    assert attention_entropy(np.full((1, 2, 5, 5), 0.2)) == pytest.approx(math.log(5))
    assert attention_entropy(np.full((1, 2, 5, 16), 1 / 16, dtype=np.float32)) == pytest.approx(math.log(16))


def test_scores_go_through_one_softmax():
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    by_hand = float(np.mean([-(row * np.log(row)).sum() for row in p.reshape(-1, 6)]))
    assert kind_of(scores) == "logits" and kind_of(p) == "probabilities"
    assert attention_entropy(scores) == pytest.approx(by_hand, abs=1e-12)
    assert attention_entropy(p) == pytest.approx(by_hand, abs=1e-12)
    assert attention_entropy(p, kind="logits") != pytest.approx(by_hand, abs=0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_entropy_lies_between_0_and_log_of_the_keys(batch, heads, queries, keys, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(keys, 0.3), size=(batch, heads, queries))
    assert 0 <= attention_entropy(p) <= math.log(keys) + 1e-9
    found = attention_specialization(p)
    assert found["specialization_index"] == pytest.approx(found["max_entropy"] - found["min_entropy"])
    assert found["min_entropy"] <= found["mean_entropy"] + 1e-12 <= found["max_entropy"] + 2e-12


def test_specialisation_of_a_focused_and_an_even_head():
    weights = one_hot(heads=2, n=8)
    weights[:, 1] = 1 / 8
    found = attention_specialization(weights)
    assert found == pytest.approx(
        {
            "mean_entropy": math.log(8) / 2,
            "min_entropy": 0,
            "max_entropy": math.log(8),
            "entropy_std": math.log(8) / 2,
            "specialization_index": math.log(8),
        }
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_precision_with_gradients(dtype):
    weights = torch.softmax(torch.randn(2, 2, 5, 5), -1).to(dtype).requires_grad_()
    assert kind_of(weights) == "probabilities"
    exact = attention_entropy(weights.detach().double())
    assert attention_entropy(weights) == pytest.approx(exact, abs=1e-2)


def test_rows_that_look_nowhere_do_not_count():
    weights = one_hot()
    weights[:, :, 0] = 0
    assert kind_of(weights) == "probabilities" and attention_entropy(weights) == 0
    scores = np.zeros((1, 1, 2, 4))
    scores[0, 0, 0] = -np.inf
    scores[0, 0, 1, 2:] = -np.inf
    assert attention_entropy(scores) == pytest.approx(math.log(2))
    assert np.isnan(attention_probabilities(scores)[0, 0, 0]).all()


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (np.full((1, 1, 2, 2), np.nan), "auto", "holds NaN"),
        (np.ones(3), "auto", "needs queries and keys"),
        (np.full((1, 1, 2, 2), -1.0), "probabilities", "negative"),
        (np.ones((1, 1, 2, 2)), "softmax", "not known"),
    ],
)
def test_bad_weights(weights, kind, said):
    with pytest.raises(MicrotomeError, match=said):
        attention_entropy(weights, kind)


def test_heads_need_four_axes():
    with pytest.raises(MicrotomeError, match="four axes"):
        attention_specialization(np.full((2, 4, 4), 0.25))


def test_divergence_and_diversity():
    p = one_hot()
    elsewhere = np.roll(p, 1, axis=-1)
    np.testing.assert_allclose(head_divergence(p, p), 0, atol=1e-12)
    np.testing.assert_allclose(head_divergence(p, elsewhere), 1)
    half = (p + elsewhere) / 2
    # JS(p, (p + q) / 2) with disjoint p and q: H(3/4, 1/4) - log(2) / 2, over log 2
    expected = (-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - math.log(2) / 2) / math.log(2)
    np.testing.assert_allclose(head_divergence(p, half), expected)
    assert head_diversity(p) == pytest.approx(0, abs=1e-12) and head_diversity(p[:, :1]) == 0
    p[:, 2] = elsewhere[:, 2]
    assert head_diversity(p) == pytest.approx(2 / 3)


def test_habits():
    habits = head_habits(one_hot(heads=1, n=4))
    assert habits["self"] == [1] and habits["first"] == [0.25] and habits["distance"] == [0]
    previous = np.eye(4, k=-1)[None, None]
    previous[..., 0, 0] = 1
    habits = head_habits(previous)
    assert habits["previous"] == [1] and habits["self"] == [0.25] and habits["distance"] == [0.75]
