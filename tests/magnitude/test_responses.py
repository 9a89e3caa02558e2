"""Kinds of responses: planted curves, a slow per-curve reference, and what must not change the kind."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.magnitude.responses import (
    IMPORTANCE_KINDS,
    RESPONSE_KINDS,
    classify_importances,
    classify_responses,
    crossing,
)

X = np.linspace(0.0, 2.0, 101)


def one(curve, x=X, scale=None):
    found = classify_responses(
        x, np.asarray(curve, float)[None], None if scale is None else np.array([scale])
    )
    return {name: values[0] for name, values in found.numbers().items()}


PLANTED = {
    "linear": [0.3 * X, -2 * X + 1, np.maximum(0, X - 0.09), X + 0.02 * np.sin(9 * X)],
    "threshold": [
        np.maximum(0, X - 0.12),
        np.maximum(0, X - 0.5),
        -np.maximum(0, X - 1.5),
        X**4,
        3 + np.maximum(0, X - 1) ** 2,
    ],
    "saturating": [
        np.minimum(X, 1.88),
        np.minimum(X, 0.7),
        np.tanh(3 * X),
        1 - np.exp(-4 * X),
        -np.minimum(X, 1.1),
    ],
    "non-monotonic": [
        X * (2 - X),
        np.exp(-((X - 1) ** 2) * 9),
        np.sin(4 * X),
        -X * np.exp(-3 * X),
        abs(X - 0.4),
    ],
    "curved": [np.sqrt(X), X + np.maximum(0, X - 1)],
    "silent": [np.zeros_like(X), np.full_like(X, 7.0), 1e4 + 1e-3 * X],
}


@pytest.mark.parametrize(("kind", "curve"), [(k, c) for k, curves in PLANTED.items() for c in curves])
def test_planted_curves_get_their_word(kind, curve):
    assert one(curve)["kind"] == kind


def test_the_numbers_behind_the_words_are_those_planted():
    linear = one(1 - 2 * X)
    assert (linear["slope"], linear["r2"]) == pytest.approx((-2.0, 1.0))
    assert (linear["start"], linear["end"], linear["range"]) == pytest.approx((1, -3, 4))
    assert np.isnan([linear["onset"], linear["knee"], linear["turning_point"], linear["reversal"]]).all()
    assert linear["plateau_ratio"] == pytest.approx(1.0)
    for t in (0.41, 0.8, 1.5):
        assert one(3 * np.maximum(0, X - t))["onset"] == pytest.approx(t, abs=0.002)
        assert one(-3 * np.minimum(X, t))["knee"] == pytest.approx(t, abs=0.002)
    assert one(np.minimum(X, 1.0))["plateau_ratio"] == pytest.approx(0.0, abs=1e-12)
    turns = one(np.where(X < 0.6, X, 1.2 - X))
    assert (turns["turning_point"], turns["reversal"]) == pytest.approx((0.6, 1.0))
    assert one(X - 0.5 * np.maximum(0, X - 1.2) * 2)["kind"] == "saturating"
    half_back = one(np.where(X < 1.0, X, 1.5 - 0.5 * X))
    assert half_back["reversal"] == pytest.approx(0.5)


def test_a_threshold_and_a_plateau_go_by_the_longer_flat_part():
    assert one(np.clip(X - 1.2, 0, 0.4))["kind"] == "threshold"
    assert one(np.clip(X - 0.4, 0, 0.4))["kind"] == "saturating"


def test_silence_is_held_against_the_scale():
    assert one(0.009 * X)["kind"] == "linear"
    assert one(0.009 * X, scale=2.0)["kind"] == "silent"
    assert one(0.011 * X, scale=2.0)["kind"] == "linear"


def test_two_steps_and_what_is_not_finite():
    assert one([0.0, 1.0], x=np.array([0.0, 1.0]))["kind"] == "linear"
    broken = one(np.where(X > 1, np.nan, X))
    assert broken["kind"] == "not finite" and math.isnan(broken["slope"])


# -- Causal importances


def importance(curve, threshold=0.1, x=X):
    found = classify_importances(x, np.asarray(curve, float)[None], threshold)
    return {name: values[0] for name, values in found.numbers().items()}


def ramp(start, full):
    return np.clip((X - start) / (full - start), 0, 1)


@pytest.mark.parametrize(
    ("kind", "curve"),
    [
        ("early", ramp(0.4, 0.6)),
        ("late", ramp(1.2, 1.4)),
        ("persistent", ramp(0.0, 0.5)),
        ("persistent", np.ones_like(X)),
        ("peaked", np.exp(-((X - 1) ** 2) * 9)),
        ("peaked", np.clip(ramp(0.4, 0.5) - 0.6 * ramp(1.4, 1.6), 0, 1)),
        ("never active", np.full_like(X, 0.1)),
        ("never active", -0.01 * X),
    ],
)
def test_planted_importances_get_their_word(kind, curve):
    assert importance(curve)["kind"] == kind


def test_the_numbers_of_importances_are_those_planted():
    found = importance(ramp(0.5, 1.0))
    assert found["onset"] == pytest.approx(0.55, abs=1e-6)
    assert (found["offset"], found["maximum"], found["intervals"]) == pytest.approx((2.0, 1.0, 1))
    assert found["share"] == pytest.approx((X > 0.55).mean())
    assert found["peak_position"] == pytest.approx(1.5, abs=0.02)
    bump = importance(np.clip(1 - np.abs(X - 0.8) / 0.4, 0, 1))
    assert (bump["onset"], bump["offset"]) == pytest.approx((0.44, 1.16), abs=1e-6)
    assert bump["peak_position"] == pytest.approx(0.8)
    assert bump["peak_width"] == pytest.approx(0.4, abs=0.03)
    twice = importance(((X > 0.2) & (X < 0.5)) | (X > 1.5))
    assert twice["intervals"] == 2
    assert importance(ramp(1.9, 2.5), threshold=0.5)["kind"] == "never active"
    assert np.isnan(importance(np.zeros_like(X))["onset"])


# -- Against a slow reference, one curve and one step at a time


def reach(x, values, level):
    """The first x at which the values reach the level, in a loop."""
    for i, value in enumerate(values):
        if value >= level:
            if i == 0 or value == values[i - 1]:
                return x[i]
            return x[i - 1] + (x[i] - x[i - 1]) * (level - values[i - 1]) / (value - values[i - 1])
    return math.nan


def slow_turns(y):
    """Whether some move of 10 % of the range is followed by one the other way: every triple of steps."""
    least = 0.1 * (max(y) - min(y))
    for peak in range(1, len(y) - 1):
        up, down = y[peak] - min(y[:peak]), y[peak] - min(y[peak + 1 :])
        fall, rise = max(y[:peak]) - y[peak], max(y[peak + 1 :]) - y[peak]
        if min(up, down) >= least or min(fall, rise) >= least:
            return True
    return False


def slow_kind(x, y):
    """The kind, or None where a number stands so near a limit that rounding decides."""
    span = max(y) - min(y)
    if span <= 1e-6 * max(map(abs, y)):
        return "silent"
    if slow_turns(y):
        return "non-monotonic"
    from_start = [abs(v - y[0]) for v in y]
    from_end = [abs(v - y[-1]) for v in reversed(y)]
    flat_start = (reach(x, from_start, 0.05 * max(from_start)) - x[0]) / (x[-1] - x[0])
    back = x[-1] - x[::-1]
    flat_end = reach(back, from_end, 0.05 * max(from_end)) / (x[-1] - x[0])
    if min(abs(flat_start - 0.1), abs(flat_end - 0.1), abs(flat_start - flat_end)) < 1e-9:
        return None
    if flat_start >= 0.1 and (flat_end < 0.1 or flat_start >= flat_end):
        return "threshold"
    if flat_end >= 0.1:
        return "saturating"
    design = np.stack([np.ones_like(x), x], 1)
    left = np.asarray(y) - design @ np.linalg.lstsq(design, np.asarray(y), rcond=None)[0]
    r2 = 1 - left @ left / ((np.asarray(y) - np.mean(y)) ** 2).sum()
    if abs(r2 - 0.99) < 1e-9:
        return None
    return "linear" if r2 >= 0.99 else "curved"


CURVES = arrays(np.float64, (3, 2, 9), elements=st.integers(-60, 60).map(float))


@given(CURVES)
@settings(max_examples=150, deadline=None)
def test_equals_a_slow_reference(values):
    x = np.linspace(0, 1.6, 9)
    curves = np.sort(values, -1)
    curves[0] = values[0]  # the others are monotone, so that every kind is met
    curves[2] = -np.maximum(curves[2], 20.0)
    found = classify_responses(x, curves).kind
    for index in np.ndindex(3, 2):
        expected = slow_kind(x, curves[index].tolist())
        assert expected is None or found[index] == expected


@given(CURVES, st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None)
def test_importances_equal_a_slow_reference(values, threshold):
    x = np.linspace(0, 1.6, 9)
    curves = np.clip(values / 60, -0.01, 1)
    found = classify_importances(x, curves, threshold)
    for index in np.ndindex(3, 2):
        y = curves[index].tolist()
        active = [v > threshold for v in y]
        assert found.kind[index] == slow_importance(x, y, active, threshold)
        assert found.share[index] == pytest.approx(sum(active) / 9)
        if any(active):
            first, last = active.index(True), 8 - active[::-1].index(True)
            lower = x[0] if first == 0 else x[first - 1]
            upper = x[-1] if last == 8 else x[last + 1]
            assert lower - 1e-9 <= found.onset[index] <= x[first] + 1e-9
            assert x[last] - 1e-9 <= found.offset[index] <= upper + 1e-9
            assert found.intervals[index] == sum(
                a and not b for a, b in zip(active, [False, *active], strict=False)
            )


def slow_importance(x, y, active, threshold):
    if not any(active):
        return "never active"
    if sum(active) / len(active) >= 0.9:
        return "persistent"
    if not active[-1] or y[-1] <= max(y) / 2:
        return "peaked"
    first = active.index(True)
    if first == 0:
        return "early"
    slope = (y[first] - y[first - 1]) / (x[first] - x[first - 1])
    onset = x[first - 1] + (threshold - y[first - 1]) / slope
    return "early" if onset < (x[0] + x[-1]) / 2 else "late"


@given(CURVES, st.floats(0.01, 100), st.floats(-5, 5), st.sampled_from([1, -1]), st.floats(0.1, 20))
@settings(max_examples=100, deadline=None)
def test_neither_the_scale_nor_the_sign_nor_the_axis_changes_the_kind(values, factor, shift, sign, stretch):
    x = np.linspace(0, 1.6, 9)
    before = classify_responses(x, values)
    after = classify_responses(stretch * x, sign * factor * values + shift)
    moved = before.kind != after.kind
    # Equal up to numbers that stand on a limit, which rounding moves to either side.
    edges = values_on_a_limit(x, values)
    assert not (moved & ~edges).any()
    same = ~moved & np.isfinite(before.turning_point) & np.isfinite(after.turning_point) & ~edges
    np.testing.assert_allclose(after.turning_point[same], stretch * before.turning_point[same], rtol=1e-9)
    np.testing.assert_allclose(
        after.slope, sign * factor / stretch * before.slope, rtol=1e-6, atol=1e-6 * factor
    )


def values_on_a_limit(x, values):
    """Curves of which some difference is exactly a tenth of the range, or another number on its limit."""
    edge = np.zeros(values.shape[:-1], dtype=bool)
    for index in np.ndindex(*edge.shape):
        y = values[index]
        edge[index] = slow_kind(x, y.tolist()) is None
        differences = np.abs(y[:, None] - y[None, :])
        edge[index] |= bool(np.isclose(differences, 0.1 * np.ptp(y)).any()) and np.ptp(y) > 0
    return edge


def test_every_word_is_one_of_those_documented():
    assert set(PLANTED) < set(RESPONSE_KINDS)
    assert {"early", "late", "peaked", "persistent", "never active"} < set(IMPORTANCE_KINDS)


def test_crossing_is_between_the_steps():
    x = np.array([0.0, 1.0, 3.0])
    values = np.array([[0.0, 2.0, 2.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(crossing(x, values, np.ones(3)), [0.5, 0.0, np.nan])
