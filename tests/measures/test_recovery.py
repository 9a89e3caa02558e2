"""MMCS, ML2R and the count of mechanisms against loops, and their invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from microtome.measures import recovery


def slow_recovery(components, target):
    """By scikit-learn, one pair at a time."""
    cosines, ratios = [], []
    for j, row in enumerate(target):
        pairs = [float(cosine_similarity(part[j][None], row[None])[0, 0]) for part in components]
        best = int(np.argmax(pairs))
        cosines.append(pairs[best])
        ratios.append(float(np.linalg.norm(components[best][j]) / np.linalg.norm(row)))
    return np.array(cosines), np.array(ratios)


def one_row_components(target):
    """The perfect decomposition: component j holds row j and nothing else."""
    parts = np.zeros((len(target), *target.shape))
    for j in range(len(target)):
        parts[j, j] = target[j]
    return parts


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_matches_a_pairwise_loop(seed, n_components, n_features, width):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(n_components, n_features, width))
    target = rng.normal(size=(n_features, width))
    cosines, ratios = slow_recovery(parts, target)
    np.testing.assert_allclose(recovery.mean_max_cosine_similarity(parts, target), cosines, atol=1e-12)
    np.testing.assert_allclose(recovery.mean_l2_ratio(parts, target), ratios, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_order_of_components_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    parts, target = rng.normal(size=(6, 4, 3)), rng.normal(size=(4, 3))
    shuffled = parts[rng.permutation(6)]
    before, after = (
        recovery.measure_recovery(parts, target),
        recovery.measure_recovery(shuffled, target),
    )
    assert after.mmcs == pytest.approx(before.mmcs)
    assert after.ml2r == pytest.approx(before.ml2r)
    assert after.recovered == before.recovered


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0))
@settings(max_examples=25, deadline=None)
def test_a_perfect_decomposition_scores_one_and_scales_with_the_components(seed, scale):
    target = np.random.default_rng(seed).normal(size=(5, 3))
    perfect = recovery.measure_recovery(one_row_components(target), target)
    assert (perfect.mmcs, perfect.ml2r) == pytest.approx((1.0, 1.0))
    assert perfect.recovered == 5
    assert perfect.component.tolist() == [0, 1, 2, 3, 4]
    scaled = recovery.measure_recovery(scale * one_row_components(target), target)
    assert (scaled.mmcs, scaled.ml2r) == pytest.approx((1.0, scale))
    assert scaled.recovered == (5 if 0.8 <= scale <= 1.2 else 0)


def test_one_component_is_not_counted_for_two_features():
    target = np.eye(4)
    assert recovery.recovered_mechanisms(target[None], target) == 1
    duo = one_row_components(target)
    duo[0, 1], duo[1, 1] = target[1], 0.0
    assert recovery.recovered_mechanisms(duo, target) == 3


def test_a_tiny_aligned_component_does_not_hide_the_real_one():
    target = np.array([[1.0, 0.0]])
    parts = np.array([[[1e-6, 0.0]], [[0.999, 0.01]]])
    measured = recovery.measure_recovery(parts, target)
    assert measured.component.tolist() == [0]
    assert measured.ml2r < 0.01
    assert measured.recovered == 1
    sturdy = recovery.measure_recovery(parts, target, min_ratio=0.1)
    assert sturdy.component.tolist() == [1]
    assert sturdy.ml2r == pytest.approx(0.999, abs=1e-3)
    assert recovery.best_component(parts, target, min_ratio=5.0).tolist() == [0]


def test_zero_rows_are_left_out_and_zero_components_score_zero():
    target = np.array([[1.0, 0.0], [0.0, 0.0]])
    parts = one_row_components(target)
    measured = recovery.measure_recovery(parts, target)
    assert measured.cosine[0] == 1.0 and math.isnan(measured.cosine[1]) and math.isnan(measured.ratio[1])
    assert (measured.mmcs, measured.ml2r, measured.recovered) == (1.0, 1.0, 1)
    assert recovery.mean_max_cosine_similarity(np.zeros((3, 1, 2)), target[:1]).tolist() == [0.0]
    assert recovery.mean_l2_ratio(np.zeros((3, 1, 2)), target[:1]).tolist() == [0.0]
    nothing = recovery.measure_recovery(parts, np.zeros((2, 2)))
    assert math.isnan(nothing.mmcs) and math.isnan(nothing.ml2r) and nothing.recovered == 0


def test_tensors_with_gradients_are_accepted():
    target = torch.eye(3)
    parts = torch.from_numpy(one_row_components(np.eye(3))).float().requires_grad_()
    assert recovery.measure_recovery(parts, target).mmcs == pytest.approx(1.0)
