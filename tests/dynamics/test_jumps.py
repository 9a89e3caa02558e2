"""Level shifts: what is planted is found where it is, what is not there is not."""

import numpy as np
import pytest

from microtome.core.errors import MicrotomeError
from microtome.dynamics.battery import NULLS, STEPS
from microtome.dynamics.jumps import find_jumps
from microtome.dynamics.level_shifts import autoregression
from microtome.dynamics.online import OnlineShifts
from microtome.dynamics.validate import validate
from microtome.dynamics.zscores import global_z, rolling_z

STEPS_OF_TEN = np.arange(400) * 10


def noise(seed: int = 0, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_a_step_is_found_at_its_training_step_with_its_size() -> None:
    y = noise()
    y[217:] += 8
    (jump,) = find_jumps(STEPS_OF_TEN, y, layers=["fc"], measure="rank")
    assert (jump.step, jump.index, jump.layer, jump.measure) == (2170, 217, "fc", "rank")
    assert jump.size == pytest.approx(8, abs=1.5)
    assert jump.after - jump.before == pytest.approx(8, abs=2)
    assert jump.p < 1e-4 and jump.z > 5


def test_sign_time_order_and_scale_do_not_matter() -> None:
    y = noise(3)
    y[120:] += 9
    (up,) = find_jumps(STEPS_OF_TEN, y)
    (down,) = find_jumps(STEPS_OF_TEN, 5 - 1e4 * y)
    assert down.index == up.index and down.z == pytest.approx(-up.z)
    (mirrored,) = find_jumps(STEPS_OF_TEN, y[::-1].copy())
    assert mirrored.index == 400 - up.index and mirrored.z == pytest.approx(-up.z)


def test_series_are_searched_as_one_family() -> None:
    """A step that one series alone would show is not enough among a thousand."""
    y = noise(5)
    y[200:] += 3.4
    alone = find_jumps(STEPS_OF_TEN, y)
    assert len(alone) == 1
    many = np.stack([y, *(noise(seed) for seed in range(100, 119))])
    together = find_jumps(STEPS_OF_TEN, many, layers=[str(row) for row in range(20)])
    assert [jump.p for jump in together if jump.layer == "0"] in ([], [pytest.approx(20 * alone[0].p)])


def test_rounding_is_below_the_floor_and_the_floor_can_be_lifted() -> None:
    y = 1 - 1e-12 * np.abs(noise(1))
    y[200:] -= 3e-11
    assert find_jumps(STEPS_OF_TEN, y) == []
    assert [jump.index for jump in find_jumps(STEPS_OF_TEN, y, floor=0.0)] == [200]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 23])
def test_constant_short_and_empty_series_have_no_jumps(n: int) -> None:
    assert find_jumps(np.arange(n), noise(0, n)) == []
    assert find_jumps(np.arange(400), np.ones(400)) == []


def test_a_step_without_noise_is_found_and_a_smooth_course_is_not() -> None:
    y = np.zeros(60)
    y[25:] = 1
    assert [jump.index for jump in find_jumps(np.arange(60), y)] == [25]
    t = np.arange(400)
    for smooth in (np.exp(-t / 30), 1 / (1 + np.exp(-(t - 200) / 9)), (t + 1.0) ** -0.5):
        assert find_jumps(t, smooth) == []


def test_a_single_outlier_is_no_jump() -> None:
    y = noise(7)
    y[200] += 25
    assert find_jumps(STEPS_OF_TEN, y) == []


def test_values_that_are_not_finite_are_left_out() -> None:
    y = noise(9)
    y[210:] += 9
    y[[3, 100, 209]] = [np.nan, np.inf, np.nan]
    (jump,) = find_jumps(STEPS_OF_TEN, y)
    assert jump.index == 210
    assert find_jumps(STEPS_OF_TEN, np.full(400, np.nan)) == []


def test_a_longer_gap_between_records_alone_is_no_jump() -> None:
    steps = np.concatenate([np.arange(60), np.arange(100, 1000, 20)])
    assert find_jumps(steps, 0.01 * steps + 0.002 * noise(2, len(steps))) == []


def test_the_autoregression_is_that_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    walk = np.zeros(4000)
    for t in range(1, 4000):
        walk[t] = 0.6 * walk[t - 1] + rng.normal()
    (weights,) = autoregression(walk[None])
    assert weights[0] == pytest.approx(0.55, abs=0.08)  # clipping takes a little
    assert np.abs(weights[1:]).max() < 0.12


def test_false_positives_and_recall_of_the_default() -> None:
    """A few series of every kind here; `dynamics validate` takes 40, the slow test 200."""
    names = [str(row) for row in range(8)]
    for kind, draw in NULLS.items():
        y = np.stack([draw(np.random.default_rng([1, seed])) for seed in range(8)])
        assert len(find_jumps(np.arange(400), y, layers=names, together=False)) <= 2, kind
    planted = [STEPS["step of 4"](np.random.default_rng([2, seed])) for seed in range(40)]
    names = [str(row) for row in range(40)]
    y = np.stack([p.values for p in planted])
    found = find_jumps(np.arange(400), y, layers=names, together=False)
    hits = [
        any(abs(j.index - p.at[0]) <= 2 for j in found if j.layer == name)
        for name, p in zip(names, planted, strict=True)
    ]
    assert np.mean(hits) >= 0.9


@pytest.mark.slow
def test_false_positives_and_recall_on_many_series() -> None:
    report = validate(seeds=200)
    assert report.valid, "\n".join(report.told())


def test_the_original_z_score_fires_on_noise_and_gives_records_after_the_jump() -> None:
    y = noise(11)
    assert len(find_jumps(STEPS_OF_TEN, y, "zscore")) > 10
    y = np.zeros(50)
    y[30:] = 1
    assert global_z(y[None])[0][0][0] == 30
    assert [jump.step for jump in find_jumps(np.arange(50) * 5, y, "zscore")] == [150]


def test_rolling_z_merges_neighbours() -> None:
    y = np.concatenate([noise(1, 100), 20 + noise(2, 100)])
    found = [index for index, _ in rolling_z(y)]
    assert 100 in found and 101 not in found


def test_ruptures_and_functions_of_the_user() -> None:
    y = noise(4)
    y[150:] += 10
    assert [jump.index for jump in find_jumps(STEPS_OF_TEN, y, "change_points")] == [150]
    largest = find_jumps(STEPS_OF_TEN, y, lambda series: [int(np.abs(np.diff(series)).argmax()) + 1])
    assert [jump.step for jump in largest] == [1500]
    with pytest.raises(MicrotomeError, match="outside"):
        find_jumps(STEPS_OF_TEN, y, lambda series: [400])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"method": "level_shfit"}, "did you mean level_shift"),
        ({"alpha": 0.0}, "not between 0 and 1"),
        ({"values": np.zeros(3)}, "one a step"),
        ({"steps": np.zeros(400)}, "do not ascend"),
    ],
)
def test_bad_arguments_are_told(arguments: dict, told: str) -> None:
    given = {"steps": STEPS_OF_TEN, "values": noise()} | arguments
    with pytest.raises(MicrotomeError, match=told):
        find_jumps(**given)


def test_online_shifts_are_confirmed_within_a_few_records() -> None:
    y = np.stack([noise(seed) for seed in range(8)])
    y[3, 200:] += 8
    y[5] = np.nan
    online = OnlineShifts(8)
    confirmed = {}
    for record in range(400):
        for row in np.flatnonzero(online.update(10 * record, y[:, record])):
            confirmed.setdefault(int(row), []).append((record, int(online.where[row])))
    assert (3, 2000) in [(row, where) for row, found in confirmed.items() for _, where in found]
    assert min(record for record, where in confirmed[3] if where == 2000) <= 204
    assert 5 not in confirmed
    assert sum(map(len, confirmed.values())) <= 6
