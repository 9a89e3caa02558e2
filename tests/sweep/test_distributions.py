"""Draws against scipy's distributions, quantised ones exactly."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from microtome.core.errors import MicrotomeError
from microtome.sweep.distributions import grid_values, quantile, quantise
from microtome.sweep.parameters import Parameter, parse_space
from microtome.sweep.search import GridSearch, RandomSearch

N = 2000
DRAWS = np.random.default_rng(7).random(N)

# Distribution and its shape -> the same by scipy.
CONTINUOUS = [
    ({"distribution": "uniform", "min": -2, "max": 3}, stats.uniform(-2, 5)),
    ({"distribution": "log_uniform", "min": -5, "max": 2}, stats.loguniform(math.exp(-5), math.exp(2))),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 10}, stats.loguniform(1e-4, 10)),
    ({"distribution": "inv_log_uniform", "min": -1, "max": 4}, stats.loguniform(math.exp(-4), math.exp(1))),
    ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 5}, stats.loguniform(0.01, 5)),
    ({"distribution": "normal", "mu": 3, "sigma": 2}, stats.norm(3, 2)),
    ({"distribution": "normal"}, stats.norm(0, 1)),
    ({"distribution": "log_normal", "mu": 0.5, "sigma": 0.7}, stats.lognorm(s=0.7, scale=math.exp(0.5))),
    ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
    ({"distribution": "beta"}, stats.uniform(0, 1)),
]


@pytest.mark.parametrize(("shape", "reference"), CONTINUOUS)
def test_draws_follow_the_distribution(shape, reference):
    parameter = Parameter.from_mapping(shape)
    values = [quantile(parameter, u) for u in DRAWS]
    assert stats.kstest(values, reference.cdf).pvalue > 0.01
    # Quantiles never fall: a Bayesian search relies on it.
    assert np.all(np.diff([quantile(parameter, u) for u in np.linspace(0, 1, 101)]) >= 0)


@pytest.mark.parametrize(
    ("shape", "reference"), [row for row in CONTINUOUS if "inv" not in row[0]["distribution"]]
)
@pytest.mark.parametrize("q", [1, 0.1, 0.25, 3])
def test_quantised_draws_are_the_nearest_multiples(shape, reference, q):
    parameter = Parameter.from_mapping({**shape, "distribution": f"q_{shape['distribution']}", "q": q})
    for u in DRAWS[:200]:
        value, exact = quantile(parameter, u), reference.ppf(u)
        assert abs(value - exact) <= q / 2 + 1e-9
        steps = value / q
        assert steps == pytest.approx(round(steps), abs=1e-9)
        assert isinstance(value, int) == isinstance(q, int)


def test_multiples_are_exact_decimals():
    assert [quantise(x, 0.1) for x in (0.29, 0.31, 0.7)] == [0.3, 0.3, 0.7]
    assert quantise(2.5, 1) == 2 and quantise(3.5, 1) == 4


def test_whole_numbers_are_equally_likely_ends_included():
    parameter = Parameter.from_mapping({"min": -1, "max": 3})
    values = [quantile(parameter, u) for u in DRAWS]
    counts = [values.count(k) for k in range(-1, 4)]
    assert sum(counts) == N
    assert stats.chisquare(counts).pvalue > 0.01
    assert quantile(parameter, 1.0) == 3 and all(isinstance(v, int) for v in values)


def test_categories_have_their_probabilities():
    values = ["a", [1, 2], None]
    parameter = Parameter.from_mapping({"values": values, "probabilities": [0.5, 0.2, 0.3]})
    drawn = [quantile(parameter, u) for u in DRAWS]
    counts = [sum(v == value for v in drawn) for value in values]
    assert stats.chisquare(counts, np.array([0.5, 0.2, 0.3]) * N).pvalue > 0.01
    assert quantile(parameter, 0.0) == "a" and quantile(parameter, 1.0) is None


def test_a_grid_is_the_product_in_order():
    space = parse_space(
        {
            "a": {"values": ["x", "y"]},
            "n": {"min": 1, "max": 3},
            "c": {"value": 7},
            "t": {"parameters": {"q": {"distribution": "q_uniform", "min": 0, "max": 0.3, "q": 0.1}}},
        },
        "s",
    )
    search = GridSearch({None: space})
    expected = list(itertools.product(["x", "y"], [1, 2, 3], [7], [0.0, 0.1, 0.2, 0.3]))
    assert search.total == len(expected) == 24
    assert [tuple(search.propose(i).parameters.values()) for i in range(24)] == expected
    assert list(search.propose(0).parameters) == ["a", "n", "c", "t.q"]
    assert GridSearch({None: space}, 5).total == 5
    with pytest.raises(IndexError):
        search.propose(24)


def test_grids_of_several_experiments_follow_each_other():
    search = GridSearch(
        {"e": parse_space({"a": {"values": [1, 2]}}, "s"), "f": parse_space({"b": {"value": 0}}, "s")}
    )
    assert [(search.propose(i).experiment, search.propose(i).parameters) for i in range(3)] == [
        ("e", {"a": 1}),
        ("e", {"a": 2}),
        ("f", {"b": 0}),
    ]


def test_a_grid_over_a_continuum_says_what_to_do():
    with pytest.raises(MicrotomeError, match=r"parameters\.lr\.distribution='uniform': .*list values"):
        grid_values("lr", Parameter.from_mapping({"min": 0.0, "max": 1.0}))


def test_random_draws_depend_on_seed_and_place_only():
    space = parse_space({"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}, "s")
    first = [RandomSearch(space, 9, 3).propose(i).parameters for i in range(9)]
    again = [RandomSearch(space, 99, 3).propose(i).parameters for i in reversed(range(9))]
    assert first == again[::-1]
    assert len({value for draw in first for value in draw.values()}) == 18
    assert first[0] != RandomSearch(space, 9, 4).propose(0).parameters
