"""CKA, Procrustes distance, RSA and shared subspaces against their definitions written out slowly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from microtome.core.errors import MicrotomeError
from microtome.measures.representation_similarity import (
    debiased_cka,
    principal_angles,
    procrustes_distance,
    rsa,
    subspace_overlap,
    without_bias,
)


def pair(seed, n, d, e, shared=2):
    draws = np.random.default_rng(seed)
    common = draws.normal(size=(n, shared))
    x = common @ draws.normal(size=(shared, d)) + draws.normal(size=(n, d))
    return x, common @ draws.normal(size=(shared, e)) + draws.normal(size=(n, e))


def slow_hsic(k, h):
    """The U-statistic itself: a mean over all ordered quadruples of different inputs (Song et al., 2012)."""
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (h[i, j] + h[q, r] - 2 * h[i, q])
        count += 1
    return total / count


@given(st.integers(0, 999), st.integers(4, 7), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_unbiased_hsic_is_its_u_statistic(seed, n, d, e):
    x, y = pair(seed, n, d, e)
    k, h = x @ x.T, y @ y.T
    ours = (without_bias(k) * without_bias(h)).sum() / (n * (n - 3))
    assert ours == pytest.approx(slow_hsic(k, h), rel=1e-9, abs=1e-9)


def test_cka_is_the_ratio_of_hsic():
    x, y = pair(1, 7, 3, 4)
    k, h = x @ x.T, y @ y.T
    expected = slow_hsic(k, h) / np.sqrt(slow_hsic(k, k) * slow_hsic(h, h))
    assert debiased_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_nothing_changes_by_rotation_scale_and_shift():
    x, y = pair(2, 30, 6, 6)
    turn = ortho_group.rvs(6, random_state=0)
    moved = 3 * x @ turn + 5
    for measure in (debiased_cka, procrustes_distance, rsa):
        assert measure(moved, y) == pytest.approx(measure(x, y), abs=1e-9)
    assert debiased_cka(x, moved) == pytest.approx(1)
    assert procrustes_distance(x, moved) == pytest.approx(0, abs=1e-9)
    assert rsa(x, moved) == pytest.approx(1)
    assert subspace_overlap(x, moved, 3) == pytest.approx(1)


def test_unrelated_wide_representations_are_not_alike():
    draws = np.random.default_rng(0)
    values = [debiased_cka(draws.normal(size=(20, 300)), draws.normal(size=(20, 300))) for _ in range(40)]
    assert abs(np.mean(values)) < 0.03  # the biased estimate would be near 0.9


def test_procrustes_is_what_the_best_rotation_leaves():
    x, y = pair(3, 12, 4, 4)
    a, b = (m - m.mean(0) for m in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    left, _, right = np.linalg.svd(a.T @ b)
    assert procrustes_distance(x, y) == pytest.approx(np.square(a @ (left @ right) - b).sum() / 2)
    for seed in range(20):
        other = ortho_group.rvs(4, random_state=seed)
        assert np.square(a @ other - b).sum() / 2 >= procrustes_distance(x, y) - 1e-12


@pytest.mark.parametrize(("d", "e"), [(3, 5), (40, 50)])
def test_wide_and_narrow_take_the_same_value(d, e):
    x, y = pair(4, 15, d, e)
    singular = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)), compute_uv=False).sum()
    norms = np.linalg.norm(x - x.mean(0)) * np.linalg.norm(y - y.mean(0))
    assert procrustes_distance(x, y) == pytest.approx(1 - singular / norms)


def test_rsa_is_spearmans_correlation_of_distances():
    x, y = pair(5, 14, 3, 6)
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic)


def test_angles_between_known_planes():
    draws = np.random.default_rng(0)
    basis = np.linalg.qr(np.c_[np.ones(20), draws.normal(size=(20, 4))])[0][:, 1:]
    x = basis[:, :2] * [3, 2]
    y = np.c_[basis[:, 0], np.cos(0.3) * basis[:, 1] + np.sin(0.3) * basis[:, 2]]
    assert principal_angles(x, y, 2) == pytest.approx([1, np.cos(0.3)])
    assert subspace_overlap(x, y, 2) == pytest.approx((1 + np.cos(0.3) ** 2) / 2)


def test_constant_activations_give_finite_answers():
    x, constant = np.random.default_rng(0).normal(size=(10, 3)), np.ones((10, 2))
    assert debiased_cka(x, constant) == 0
    assert procrustes_distance(x, constant) == 1
    assert rsa(x, constant) == 0
    assert subspace_overlap(x, constant, 2) == 0


def test_bad_input_is_told():
    x = np.zeros((5, 2))
    with pytest.raises(MicrotomeError, match="same inputs"):
        debiased_cka(x, x[:4])
    with pytest.raises(MicrotomeError, match="at least 4"):
        debiased_cka(x[:3], x[:3])
    with pytest.raises(MicrotomeError, match="finite"):
        rsa(np.full((5, 2), np.nan), x)
    with pytest.raises(MicrotomeError, match="k=0"):
        subspace_overlap(x, x, 0)
