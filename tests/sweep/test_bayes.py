"""The Bayesian search: better than chance, repeatable, at home with every distribution."""

import math

import pytest

from microtome.core.errors import MicrotomeError
from microtome.sweep import bayes
from microtome.sweep.parameters import parse_space
from microtome.sweep.record import Trial
from microtome.sweep.search import RandomSearch, build_search
from microtome.sweep.spec import read_spec

pytest.importorskip("optuna")

PARAMETERS = {
    "x": {"min": 0.0, "max": 1.0},
    "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
    "n": {"min": 1, "max": 9},
    "kind": {"values": ["a", ["b", 1]]},
    "fixed": {"value": 3},
}


def loss(p):
    return (p["x"] - 0.3) ** 2 + (math.log10(p["lr"]) + 3) ** 2 + 0.1 * abs(p["n"] - 4) + (p["kind"] == "a")


def search(total=40, seed=0, goal="minimize", parameters=PARAMETERS):
    mapping = {
        "program": "x.py",
        "method": "bayes",
        "run_cap": total,
        "metric": {"name": "loss", "goal": goal},
        "parameters": parameters,
    }
    spec = read_spec(mapping, "s")
    return build_search(spec, spec.space(), None, seed)


def play(engine, total, score=loss):
    trials = []
    for i in range(total):
        p = engine.propose(i, trials).parameters
        trials.append(Trial(i, p, status="finished", metrics={"loss": score(p)}))
    return trials


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_it_finds_a_planted_optimum_better_than_chance(goal):
    sign = 1 if goal == "minimize" else -1
    space = parse_space(PARAMETERS, "s")
    draws = [
        [loss(RandomSearch(space, 30, 100 + s).propose(i).parameters) for i in range(30)] for s in range(12)
    ]
    trials = play(search(30, goal=goal), 30, lambda p: sign * loss(p))
    # Better than three in four random searches of the same length.
    assert min(sign * trial.metrics["loss"] for trial in trials) < sorted(map(min, draws))[3]


def test_a_killed_search_proposes_the_same_again():
    trials = play(search(), 12)
    for i in (3, 11):
        assert search().propose(i, trials[:i]).parameters == trials[i].parameters
    assert search(seed=1).propose(0, []).parameters != trials[0].parameters


def test_running_and_failed_trials_are_taken_into_account():
    trials = play(search(), 12)
    trials[3].status, trials[3].metrics = "running", {}
    trials[4].status, trials[4].metrics = "failed", {}
    trials[5].metrics = {}
    proposal = search().propose(12, trials)
    assert set(proposal.parameters) == set(PARAMETERS)
    assert proposal.parameters["fixed"] == 3


def test_a_value_is_told_where_it_came_from():
    space = {
        "v": {"distribution": "log_normal", "sigma": 2},
        "q": {"distribution": "q_uniform", "min": 0, "max": 9, "q": 2},
    }
    engine = search(parameters=space)
    assert isinstance(engine, bayes.BayesSearch)
    from microtome.sweep.distributions import quantile

    for u in (0.1, 0.5, 0.93):
        v = quantile(engine._space.parameters["v"], u)
        assert engine._place("v", v) == pytest.approx(u, abs=1e-9)
        q = quantile(engine._space.parameters["q"], u)
        assert quantile(engine._space.parameters["q"], engine._place("q", q)) == q


def test_without_optuna_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MicrotomeError, match=r"pip install 'microtome\[sweep\]'"):
        search()


def test_a_search_without_an_end_is_refused():
    spec = read_spec({"program": "x", "method": "random", "parameters": {"x": {"min": 0.0, "max": 1.0}}}, "s")
    with pytest.raises(MicrotomeError, match=r"method='random': .*--count N"):
        build_search(spec, spec.space(), None, 0)
    assert build_search(spec, spec.space(), 7, 0).total == 7
