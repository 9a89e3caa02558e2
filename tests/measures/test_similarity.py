"""Cosines between components in closed form, against the matrices themselves."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.measures import similarity as module
from microtome.measures.similarity import (
    component_cosines,
    match_components,
    random_rotation,
    rotated_cosines,
    similarity,
)


def factors(seed, c, d_in, m, d_out):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(c, d_in, m, generator=draws), torch.randn(c, m, d_out, generator=draws)


def slow_cosines(left, right, other_left, other_right):
    out = np.zeros((len(left), len(other_left)))
    for i, j in itertools.product(range(len(left)), range(len(other_left))):
        one, other = (
            (left[i] @ right[i]).flatten().numpy(),
            (other_left[j] @ other_right[j]).flatten().numpy(),
        )
        norms = np.linalg.norm(one) * np.linalg.norm(other)
        out[i, j] = one @ other / norms if norms > 0 else 0.0
    return out


@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_closed_form_equals_the_cosines_of_the_matrices(seed, m, n, d_in, d_out):
    one, other = factors(seed, 3, d_in, m, d_out), factors(seed + 1, 4, d_in, n, d_out)
    np.testing.assert_allclose(component_cosines(*one, *other), slow_cosines(*one, *other), atol=1e-5)


def test_large_sets_are_multiplied_in_parts(monkeypatch):
    one, other = factors(0, 7, 20, 2, 30), factors(1, 5, 20, 1, 30)
    whole = component_cosines(*one, *other)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 12)
    torch.testing.assert_close(component_cosines(*one, *other), whole)


def test_a_zero_component_is_like_nothing_and_itself_like_itself():
    left, right = factors(0, 3, 4, 1, 5)
    left[1] = 0
    found = component_cosines(left, right, left, right)
    assert found[1].tolist() == [0.0] * 3
    assert found[0, 0] == pytest.approx(1.0)


def test_a_rotated_reference_keeps_its_inner_angles_and_loses_the_likeness():
    left, right = factors(0, 30, 25, 1, 20)
    draws = torch.Generator().manual_seed(0)
    turn = random_rotation(25, draws)
    torch.testing.assert_close(turn @ turn.T, torch.eye(25, dtype=torch.float64))
    by_chance = rotated_cosines(left, right, left, right, draws).abs().amax(dim=1)
    assert component_cosines(left, right, left, right).abs().amax(dim=1).min() > 0.999
    assert by_chance.max() < 0.6
    # Cosines of random directions have variance 1 / (d_in d_out).
    each = rotated_cosines(left, right, left, right, draws)
    assert each.square().mean().item() == pytest.approx(1 / 500, rel=0.2)


@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_matching_is_the_best_of_all(seed, c, d):
    values = np.random.default_rng(seed).uniform(-1, 1, (c, d))
    found = match_components(values)
    assert len(set(found.rows)) == len(set(found.columns)) == min(c, d)
    np.testing.assert_allclose(found.values, np.abs(values)[found.rows, found.columns])
    wide = np.abs(values) if c <= d else np.abs(values).T
    best = max(
        sum(wide[i, order[i]] for i in range(len(wide)))
        for order in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert found.values.sum() == pytest.approx(best)


def test_statistics_are_over_alive_rows_only():
    cosines = np.array([[0.1, -0.9], [1.0, 1.0], [0.5, 0.2]])
    found = similarity(cosines, np.array([True, False, True]))
    assert found is not None
    assert (found.mean, found.smallest, found.greatest) == pytest.approx((0.7, 0.5, 0.9))
    assert found.std == pytest.approx(np.std([0.9, 0.5], ddof=1))
    assert similarity(cosines, np.zeros(3, dtype=bool)) is None
    single = similarity(cosines, np.array([True, False, False]))
    assert single is not None and np.isnan(single.std)
