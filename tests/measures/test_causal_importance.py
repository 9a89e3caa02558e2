"""Identity error, permutations, counts and categories, against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.measures import causal_importance as ci


def brute_force_diagonal(values):
    """The largest diagonal sum that any order of the columns gives."""
    n, n_components = values.shape
    rows = min(n, n_components)
    return max(
        sum(values[i, order[i]] for i in range(rows))
        for order in itertools.permutations(range(n_components), rows)
    )


def slow_error(permuted, tolerance):
    errors = 0
    for i in range(permuted.shape[0]):
        for j in range(permuted.shape[1]):
            wanted = 1.0 if i == j else 0.0
            off = wanted - permuted[i, j] if i == j else permuted[i, j] - wanted
            errors += off > tolerance
    return errors


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_permutation_is_the_best_of_all(seed, n, n_components):
    values = np.random.default_rng(seed).random((n, n_components))
    order = ci.permutation_to_identity(values)
    assert sorted(order.tolist()) == list(range(n_components))
    rows = min(n, n_components)
    assert np.trace(values[:rows, order[:rows]]) == pytest.approx(brute_force_diagonal(values))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_a_shuffled_identity_has_no_error_and_planted_errors_are_counted(seed, n, extra):
    rng = np.random.default_rng(seed)
    values = np.zeros((n, n + extra))
    values[:, :n] = np.eye(n)
    values = values[:, rng.permutation(n + extra)]
    assert ci.identity_error(values) == 0
    free = np.argwhere(values == 0)
    # Few enough that the planted identity stays the best assignment.
    planted = free[rng.choice(len(free), size=min(2, len(free)), replace=False)]
    values[tuple(planted.T)] = 0.4
    assert ci.identity_error(values) == len(planted)
    assert ci.identity_error(values, tolerance=0.5) == 0


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.4))
@settings(max_examples=30, deadline=None)
def test_identity_error_matches_a_loop(seed, tolerance):
    values = np.random.default_rng(seed).random((4, 6))
    permuted = values[:, ci.permutation_to_identity(values)]
    assert ci.identity_error(values, tolerance) == slow_error(permuted, tolerance)


def test_a_missing_mechanism_is_an_error_on_the_diagonal():
    values = np.eye(4, 6)
    values[2, 2] = 0.0
    assert ci.identity_error(values) == 1
    values[2, 0] = 1.0
    assert ci.identity_error(values) == 2


def test_fewer_components_than_features_is_refused():
    with pytest.raises(MicrotomeError, match=r"C=2.*raise C"):
        ci.identity_error(np.ones((3, 2)))


def test_dense_columns_count_by_hand():
    values = np.zeros((4, 5))
    values[:, 3] = 0.95
    values[0, 1] = 1.0
    assert ci.permutation_to_dense(values).tolist() == [3, 1, 0, 2, 4]
    assert ci.dense_columns_error(values, 2) == 0
    assert ci.dense_columns_error(values, 2, min_entries=3) == 2
    assert ci.dense_columns_error(values, 1) == 1
    assert ci.dense_columns_error(values, 3) == 1
    with pytest.raises(MicrotomeError, match="n_dense=6"):
        ci.dense_columns_error(values, 6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
@settings(max_examples=20, deadline=None)
def test_counts_match_loops(seed, threshold):
    values = np.random.default_rng(seed).random((7, 4))
    above = [[values[i, c] > threshold for c in range(4)] for i in range(7)]
    assert ci.alive_counts(values, threshold) == sum(any(row[c] for row in above) for c in range(4))
    assert ci.l0(values, threshold) == pytest.approx(sum(map(sum, above)) / 7)
    assert ci.activation_frequency(values, threshold).tolist() == pytest.approx(
        [sum(row[c] for row in above) / 7 for c in range(4)]
    )
    assert ci.mean_importance(values).tolist() == pytest.approx(
        [sum(values[i, c] for i in range(7)) / 7 for c in range(4)]
    )
    stacked = values.reshape(7, 1, 4)
    assert ci.alive_counts(stacked, threshold) == ci.alive_counts(values, threshold)


def test_categories_of_planted_components():
    strengths = np.zeros((5, 4))
    strengths[0, 0] = 1.0
    strengths[[1, 2], 1] = 0.5
    strengths[[1, 2, 3], 2] = 0.05
    per_component, counts = ci.component_categories(strengths)
    assert per_component.tolist() == [1, 2, 3, 0]
    assert counts == {"dead": 1, "mono": 1, "duo": 1, "poly": 1, "represented": 4, "own": 1}
    assert ci.component_categories(strengths, cutoff=0.1)[1]["dead"] == 2
