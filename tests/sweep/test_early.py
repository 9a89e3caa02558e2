"""Hyperband against numbers worked by hand."""

import pytest

from microtome.sweep.early import brackets, losing
from microtome.sweep.spec import EarlyTerminate


def rule(**settings):
    return EarlyTerminate.from_mapping({"type": "hyperband", **settings})


@pytest.mark.parametrize(
    ("settings", "upto", "expected"),
    [
        ({"min_iter": 3}, 81, [3, 9, 27, 81]),  # the example of W&B's documentation
        ({"min_iter": 3}, 80, [3, 9, 27]),
        ({"max_iter": 27, "s": 2}, 10**9, [3, 9]),  # and its other one: 27/3, 27/9
        ({"max_iter": 5, "s": 2, "eta": 2}, 10**9, [1, 2]),
        ({"max_iter": 27, "s": 9}, 10**9, [1, 3, 9]),  # none below one iteration
        ({"min_iter": 2, "eta": 1.5}, 7, [2, 3, 4, 6]),
    ],
)
def test_brackets(settings, upto, expected):
    assert brackets(rule(**settings), upto) == expected


def test_the_best_third_goes_on_at_each_bracket():
    # Bracket 2 (eta 3): the second reports are 1..6; the best 6/3 = 2 and the next one, the threshold, go on.
    histories = {k: [9.0, float(k)] for k in range(1, 7)}
    assert losing(histories, list(histories), rule(min_iter=2), minimize=True) == [4, 5, 6]
    upside_down = {k: [-v for v in values] for k, values in histories.items()}
    assert losing(upside_down, list(histories), rule(min_iter=2), minimize=False) == [4, 5, 6]


def test_a_trial_is_judged_at_the_last_bracket_it_reached_and_ended_ones_count():
    histories = {
        0: [10.0, 9.0],
        1: [10.0, 10.0],
        2: [10.0, 8.0, 8.0],
        3: [10.0, 7.0, 7.0],
        4: [10.0, 6.0, 6.0],
    }
    # eta 2, brackets 1 and 2. At 2: 6 7 8 9 10, threshold 8: trials 1 (10) and, were it running, 0 (9) lose.
    settings = rule(max_iter=5, s=2, eta=2)
    assert losing(histories, [1, 2, 3], settings, minimize=True) == [1]
    assert losing(histories, [0, 1, 2], settings, minimize=True) == [0, 1]


def test_nobody_is_judged_before_the_first_bracket_or_alone():
    assert losing({0: [5.0], 1: [9.0]}, [0, 1], rule(min_iter=2), minimize=True) == []
    assert losing({0: [5.0, 6.0, 7.0]}, [0], rule(min_iter=2), minimize=True) == []
    assert losing({}, [0], rule(min_iter=2), minimize=True) == []


def test_strict_judges_by_the_value_at_the_bracket():
    histories = {0: [1.0, 9.0], 1: [5.0, 5.0], 2: [6.0, 6.0]}  # trial 0 was best, then got worse
    assert losing(histories, [0], rule(min_iter=2, eta=3), minimize=True) == []
    assert losing(histories, [0], rule(min_iter=2, eta=3, strict=True), minimize=True) == [0]
