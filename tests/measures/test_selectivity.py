"""Selectivity of units, and the influence of single inputs on its mean."""

import numpy as np
import pytest

from microtome.measures.selectivity import (
    between_classes_input_values,
    class_selectivity,
    selectivity_input_values,
    variance_between_classes,
)


def data(seed=0, n=60, units=5):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, n)
    return np.maximum(draws.normal(size=(n, units)) + labels[:, None] * np.linspace(0, 1, units), 0), labels


def test_by_hand():
    x = np.array([[4.0, 1, 0], [2, 1, 0], [1, 1, 0], [1, 1, 0]])
    found = class_selectivity(x, np.array([0, 0, 1, 2]))
    assert found[0] == pytest.approx((3 - 1) / (3 + 1))
    assert found[1] == 0
    assert np.isnan(found[2])


def test_share_between_classes_is_that_of_an_analysis_of_variance():
    x, labels = data()
    for unit, share in enumerate(variance_between_classes(x, labels)):
        groups = [x[labels == c, unit] for c in range(3)]
        inside = sum(np.square(g - g.mean()).sum() for g in groups)
        assert share == pytest.approx(1 - inside / np.square(x[:, unit] - x[:, unit].mean()).sum())
    assert np.isnan(variance_between_classes(np.ones((4, 1)), np.array([0, 0, 1, 1]))).all()


@pytest.mark.parametrize(
    ("values", "statistic"),
    [(selectivity_input_values, class_selectivity), (between_classes_input_values, variance_between_classes)],
)
def test_influences_are_what_more_weight_on_one_input_changes(values, statistic):
    x, labels = data()
    found = values(x, labels)
    whole = np.nanmean(statistic(x, labels))
    assert found.mean() == pytest.approx(whole)
    times = 400  # one more copy of an input among 400 of each
    for i in (0, 7, 20):
        more = np.nanmean(
            statistic(np.r_[np.tile(x, (times, 1)), x[i : i + 1]], np.r_[np.tile(labels, times), labels[i]])
        )
        slope = (more - whole) * (len(x) * times + 1)
        assert found[i] - whole == pytest.approx(slope, rel=0.02, abs=2e-3)
