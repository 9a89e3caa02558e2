"""Numbers over batches: means, jackknife errors, shares recovered, against hand-worked and slow values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.decomposition.evaluation.series import Series, estimate, named, recovered

VALUES = st.lists(
    st.lists(st.floats(-10, 10, allow_nan=False), min_size=3, max_size=3), min_size=2, max_size=8
)


@given(VALUES)
def test_the_jackknife_of_a_mean_is_its_standard_error(rows: list[list[float]]):
    values = np.array(rows)
    mean, error = estimate(lambda one: one, Series.of(values))
    assert error is not None
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-9)
    np.testing.assert_allclose(error, values.std(0, ddof=1) / np.sqrt(len(values)), atol=1e-9)


def test_the_jackknife_of_a_ratio_leaves_out_a_batch_at_a_time():
    over, under = np.array([[2.0], [3.0], [7.0]]), np.array([[1.0], [2.0], [3.0]])
    value, error = estimate(lambda a, b: a / b, Series.of(over), Series.of(under))
    left_out = np.array([10 / 5, 9 / 4, 5 / 3])
    assert error is not None
    assert value == pytest.approx(12 / 6)
    assert error == pytest.approx(np.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum()))


def test_one_batch_has_no_spread():
    series = Series()
    series.add(torch.tensor([1.0, 2.0]))
    value, error = estimate(lambda one: one, series)
    assert value.tolist() == [1.0, 2.0]
    assert error is None


def test_shares_recovered_by_hand():
    wanted, found, ablated = np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.array([3.0, 3.0, 1.0])
    share = recovered(wanted, found, ablated)
    assert share[:2].tolist() == [1.0, 0.5]
    assert np.isnan(share[2])  # ablating costs nothing


def test_what_was_not_measured_is_named_with_what_was():
    with pytest.raises(MicrotomeError, match="ce/ci: not measured; there are mse/ci"):
        named({"mse/ci": Series()}, "ce/ci")
