"""When a check passes, fails, or cannot tell."""

import numpy as np
import pytest
from scipy import stats

from microtome.decomposition.evaluation.checks import Check, judged, margins_of, number


def check(
    values: list[float], margins: tuple[float, ...] | None, *, at_most: bool = True, ratio: bool = False
) -> Check:
    return judged(
        "name",
        "question",
        values,
        margins,
        limit=3.0,
        at_most=at_most,
        passed="good",
        failed="bad",
        ratio=ratio,
    )


@pytest.mark.parametrize(
    ("values", "margins", "status"),
    [
        ([2.0], None, "passed"),
        ([3.0], None, "passed"),
        ([3.1], None, "failed"),
        ([2.0], (0.5,), "passed"),
        ([2.8], (0.5,), "unclear"),
        ([3.2], (0.5,), "unclear"),
        ([3.6], (0.5,), "failed"),
        ([2.0, 2.9], (0.5, 0.5), "unclear"),
        ([2.0, 2.9, 9.0], (0.5, 0.5, 0.5), "failed"),
        ([float("nan")], None, "failed"),
        ([float("inf")], None, "failed"),
    ],
)
def test_a_seed_passes_with_its_whole_interval_or_not_at_all(values, margins, status):
    assert check(values, margins).status == status
    mirrored = check([6.0 - v for v in values], margins, at_most=False)
    assert mirrored.status == status


def test_ratios_have_lopsided_intervals():
    assert check([100.0], (150.0,)).status == "unclear"
    assert check([100.0], (150.0,), ratio=True).status == "failed"
    assert check([2.9], (0.5,), ratio=True).status == "unclear"
    assert check([1.0], (0.5,), ratio=True).status == "passed"


def test_the_seeds_that_do_not_pass_are_named():
    found = check([1.0, 4.0, 1.0, 5.0], None)
    assert found.why == "seeds 1, 3 of 4: bad"
    assert found.verdict == "failed 2/4"
    assert found.measured == "2.75 [1, 5]"
    assert check([4.0, 5.0], None).why == "both seeds: bad"
    assert check([4.0], None).why == "bad"
    assert "2.4 to 3.4" in check([2.0, 2.9], (0.5, 0.5)).why


def test_margins_are_half_of_a_95_percent_interval():
    assert margins_of(np.array([0.1]), 5) == pytest.approx((0.1 * stats.t.ppf(0.975, 4),))
    assert margins_of(None, 1) is None


def test_about_95_of_100_intervals_hold_the_truth():
    draws = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        values = draws.normal(0.0, 1.0, 8)
        margins = margins_of(np.array([values.std(ddof=1) / np.sqrt(8)]), 8)
        assert margins is not None
        held += abs(values.mean()) <= margins[0]
    assert 925 <= held <= 975


def test_numbers_are_short():
    assert [number(v) for v in (0.0, 0.98765, 1234.5, 2.5e-7, float("inf"))] == [
        "0",
        "0.988",
        "1,234",
        "2.50e-07",
        "inf",
    ]
