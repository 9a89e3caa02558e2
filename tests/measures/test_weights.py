"""Distributions and directions of weights against numpy, scipy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from microtome.measures.weights import (
    centred_gram,
    distribution,
    filter_gram,
    principal,
    smoothed,
    span_cosines,
)


def test_distribution_against_scipy():
    w = torch.randn(300, 301) * 0.01 + 0.003
    found, flat = distribution(w, 1e-3), w.double().numpy().ravel()
    assert found.norm == pytest.approx(np.linalg.norm(flat), rel=1e-5)
    assert found.mean == pytest.approx(flat.mean(), rel=1e-4)
    assert found.std == pytest.approx(flat.std(), rel=1e-5)
    assert found.kurtosis == pytest.approx(stats.kurtosis(flat, fisher=False), rel=1e-4)
    assert found.small == pytest.approx((np.abs(flat) < 1e-3).mean())


def test_hoyer_sparsity_of_known_vectors():
    assert distribution(torch.ones(50)).hoyer == pytest.approx(0.0, abs=1e-6)
    assert distribution(torch.eye(50)[0]).hoyer == pytest.approx(1.0)


def test_smoothed_density_is_a_kernel_estimate():
    values = np.random.default_rng(0).normal(size=2000)
    counts, edges = np.histogram(values, 400, (-5, 5))
    middles = (edges[:-1] + edges[1:]) / 2
    np.testing.assert_allclose(
        smoothed(counts.astype(float), edges), stats.gaussian_kde(values)(middles), atol=0.004
    )


def test_components_against_scikit_learn():
    w = torch.randn(30, 12).double()
    found, known = principal(centred_gram(filter_gram(w)), 3), PCA(3).fit(w.numpy())
    np.testing.assert_allclose(np.abs(found.scores), np.abs(known.transform(w.numpy())), atol=1e-8)
    np.testing.assert_allclose(found.ratio, known.explained_variance_ratio_, atol=1e-10)


def test_angles_against_scipy():
    a, b = torch.randn(20, 9).double(), torch.randn(25, 9).double()
    one, other = (principal(centred_gram(filter_gram(w)), 3) for w in (a, b))
    cosines = span_cosines(one, other, centred_gram(filter_gram(a, b)))
    spans = [PCA(3).fit(w.numpy()).components_.T for w in (a, b)]
    np.testing.assert_allclose(np.sort(cosines), np.sort(np.cos(subspace_angles(*spans))), atol=1e-8)


def test_quick_components_find_those_that_stand_out():
    w = torch.randn(600, 40) @ torch.diag(torch.tensor([9.0, 5.0, *[0.3] * 38]))
    gram = centred_gram(filter_gram(w))
    exact, quick = principal(gram, 2), principal(gram, 2, quick=True)
    np.testing.assert_allclose(np.abs(quick.vectors), np.abs(exact.vectors), atol=1e-4)


def test_one_filter_has_no_components():
    found = principal(centred_gram(filter_gram(torch.randn(1, 5))), 2)
    assert found.scores.shape == (1, 0)
