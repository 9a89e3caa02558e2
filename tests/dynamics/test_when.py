"""Schedules: which steps they name, and that they can be written down and read again."""

import pytest

from microtome.core.errors import MicrotomeError
from microtome.dynamics.when import ALWAYS, NEVER, at, every, log2, log2_then, schedule


def steps(when, until=600):
    return [step for step in range(until) if when(step)]


def test_schedules():
    assert steps(log2_then(100)) == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400, 500]
    assert steps(every(200)) == [0, 200, 400]
    assert steps(at([7, 3])) == [3, 7]
    assert steps(log2(), 20) == [0, 1, 2, 4, 8, 16]
    assert steps(every(300) | at([5])) == [0, 5, 300]
    assert steps(every(300) | (lambda step: step == 9)) == [0, 9, 300]
    assert len(steps(ALWAYS)) == 600 and steps(NEVER) == []


@pytest.mark.parametrize(
    "given", [log2_then(100), every(7), at([1, 50]), log2(), ALWAYS, NEVER, every(50) | at([3]) | log2()]
)
def test_a_name_reads_back_to_the_same_schedule(given):
    assert steps(schedule(str(given))) == steps(given)
    assert str(schedule(str(given))) == str(given)


def test_a_number_is_every_so_many():
    assert steps(schedule(150)) == steps(schedule("150")) == [0, 150, 300, 450]


@pytest.mark.parametrize("given", ["evry(10)", "every()", "every(1, 2)", "", "every(10) |", True])
def test_what_is_no_schedule(given):
    with pytest.raises(MicrotomeError, match="not a schedule"):
        schedule(given)


def test_what_cannot_be():
    with pytest.raises(MicrotomeError, match="every=0"):
        schedule("every(0)")
    with pytest.raises(MicrotomeError, match="at=-1"):
        at([-1])
