"""Ramps: the middle and the extent of what is planted; nothing where training is smooth."""

import numpy as np
import pytest

from microtome.dynamics.battery import RAMP_NULLS, RAMPS
from microtome.dynamics.jumps import find_ramps

STEPS = np.arange(400) * 5


def ramp(middle: float, width: float, size: float = 1.0, steps: np.ndarray = STEPS) -> np.ndarray:
    return size / (1 + np.exp(-2 * np.log(9) * (steps - middle) / width))


def test_a_ramp_is_found_with_its_middle_and_extent() -> None:
    y = ramp(900, 300) + 0.02 * np.random.default_rng(0).normal(size=400)
    (found,) = find_ramps(STEPS, y, layers=["head"], measure="accuracy")
    assert found.middle == pytest.approx(900, abs=15)
    assert found.end - found.start == pytest.approx(300, rel=0.2)
    assert found.size == pytest.approx(1, abs=0.1)
    assert found.bounded and found.fit > 0.98 and found.z > 8
    assert (found.layer, found.measure) == ("head", "accuracy")


def test_units_and_direction_do_not_matter() -> None:
    y = ramp(900, 300) + 0.02 * np.random.default_rng(0).normal(size=400)
    (one,) = find_ramps(STEPS, y)
    (other,) = find_ramps(STEPS * 7, 3 - 1e3 * y)
    assert other.middle == pytest.approx(7 * one.middle, rel=1e-3)
    assert other.size == pytest.approx(-1e3 * one.size, rel=1e-2)


def test_uneven_records_and_gaps() -> None:
    steps = np.concatenate([[0, 1, 2, 4, 8], np.arange(10, 1200, 10)])
    y = ramp(480, 260, steps=steps) + 0.005 * np.random.default_rng(1).normal(size=len(steps))
    y[[7, 60]] = np.nan
    (found,) = find_ramps(steps, y)
    assert found.middle == pytest.approx(480, rel=0.05)


def test_a_ramp_whose_end_was_not_recorded_says_so() -> None:
    y = ramp(1600, 500) + 0.01 * np.random.default_rng(2).normal(size=400)
    (found,) = find_ramps(STEPS, y)
    assert not found.bounded and found.middle == pytest.approx(1600, rel=0.1)


def test_two_ramps_apart() -> None:
    y = ramp(500, 100) + ramp(1400, 150) + 0.01 * np.random.default_rng(3).normal(size=400)
    assert [round(found.middle, -2) for found in find_ramps(STEPS, y)] == [500, 1400]


def test_learning_that_begins_with_the_training_is_no_ramp() -> None:
    noise = 0.005 * np.random.default_rng(4).normal(size=(3, 400))
    courses = [np.exp(-STEPS / 100), 1 - ramp(60, 90), 1 / (1 + STEPS / 50)]
    assert find_ramps(STEPS, np.stack(courses) + noise) == []


@pytest.mark.parametrize("n", [0, 1, 15])
def test_short_and_constant_series_have_none(n: int) -> None:
    assert find_ramps(np.arange(n), np.zeros(n)) == []
    assert find_ramps(STEPS, np.ones(400)) == []


def test_very_many_records_are_averaged() -> None:
    steps = np.arange(5000)
    y = ramp(2000, 600, steps=steps) + 0.05 * np.random.default_rng(5).normal(size=5000)
    (found,) = find_ramps(steps, y)
    assert found.middle == pytest.approx(2000, rel=0.02)


def test_battery() -> None:
    for name, draw in RAMP_NULLS.items():
        y = np.stack([draw(np.random.default_rng([1, seed])) for seed in range(8)])
        assert len(find_ramps(np.arange(400), y)) <= 2, name
    for name, draw in RAMPS.items():
        planted = [draw(np.random.default_rng([2, seed])) for seed in range(6)]
        names = [str(place) for place in range(6)]
        found = find_ramps(np.arange(400), np.stack([p.values for p in planted]), layers=names)
        hits = [
            any(abs(r.middle - p.at[0]) <= p.tolerance for r in found if r.layer == row)
            for row, p in zip(names, planted, strict=True)
        ]
        assert sum(hits) >= 5, name
