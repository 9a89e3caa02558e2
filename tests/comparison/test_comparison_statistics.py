"""Claims: their p-values are right where the truth is known, and are corrected together."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kstest, ttest_ind

from microtome.comparison.pairwise import between_groups, log_dissimilarity, spread_out, within_group
from microtome.comparison.part import Claim
from microtome.comparison.statistics import (
    Measured,
    difference_claim,
    difference_claims,
    holm,
    judge,
    moderated,
    paired_bootstrap,
    paired_interval,
    permutation_p,
    seed_spread,
)


def claim(p, about="x"):
    return Claim("test", about, "a", "b", 0.1, 0.0, 0.2, p, 100, (1, 1), "nothing")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert (holm([0.2, 0.9]) >= false_discovery_control([0.2, 0.9])).all()
    assert len(holm([])) == 0


def test_sentences_say_what_was_found_and_what_was_not():
    found, missed = judge([claim(0.001, "depth"), claim(0.4, "width")])
    assert found.distinguishable and found.sentence.startswith("a and b differ in depth: +0.1")
    assert not missed.distinguishable and "Width: not distinguishable from noise" in missed.sentence
    assert all("n = 100 inputs" in each.sentence and "nothing" in each.sentence for each in (found, missed))


def test_with_enough_seeds_it_is_students_test():
    draws = np.random.default_rng(0)
    a, b = draws.normal(0.5, 1, (8, 1)), draws.normal(0, 1, (9, 1))
    noiseless = [np.repeat(v, 5, axis=1) for v in (a, b)]  # no spread over inputs
    found = difference_claim("test", "x", "a", "b", *noiseless, np.zeros(4))
    theirs = ttest_ind(a[:, 0], b[:, 0])
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_single_networks_are_judged_by_untrained_ones():
    draws = np.random.default_rng(0)
    p = []
    for _ in range(400):
        values = draws.normal(0, 1, 6)
        a, b = np.full((1, 5), values[0]), np.full((1, 5), values[1])
        p.append(difference_claim("test", "x", "a", "b", a, b, values[2:]).p)
    assert kstest(p, "uniform").pvalue > 0.01


def test_noise_of_inputs_counts_too():
    draws = np.random.default_rng(0)
    shared = draws.normal(0, 5, 200)
    a, b = (shared + draws.normal(0, 1, (1, 200)) for _ in range(2))
    middle, low, high = paired_interval(a, b)
    assert high - low == pytest.approx(2 * 1.96 * (a - b).std(ddof=1) / np.sqrt(200), rel=1e-3)
    assert low < middle < high
    tight = difference_claim("test", "x", "a", "b", a, b, np.array([0, 1e-9, 2e-9, 1e-9]))
    assert tight.high - tight.low == pytest.approx(high - low)


def test_unlike_architectures_are_taken_relative_to_their_own_untrained_networks():
    a, b = np.full((1, 5), 7.0), np.full((1, 5), 3.0)
    floors = np.array([5.9, 6.1, 6.0, 6.0]), np.array([2.1, 1.9, 2.0, 2.0])
    [found] = difference_claims("test", "a", "b", [Measured("x", "l", a, b, *floors)])
    assert found.effect == pytest.approx(0) and found.p > 0.9


def test_nothing_varies():
    same = np.full((1, 5), 0.5)
    assert difference_claim("test", "x", "a", "b", same, same, np.full(4, 0.5)).p == 1
    assert (
        difference_claim("test", "x", "a", "b", same, same + 1, np.zeros(0)).p == 1
    )  # no untrained networks


def test_moderation_draws_variances_together_and_keeps_their_scale():
    draws = np.random.default_rng(0)
    raw = draws.chisquare(3, (500, 6)) / 3
    shrunk = np.array([moderated(row, np.full(6, 3.0))[0] for row in raw])
    assert np.log(shrunk).std() < 0.8 * np.log(raw).std()
    assert shrunk.mean() == pytest.approx(1, abs=0.12)
    assert (moderated(np.array([2.0]), np.array([3.0]))[0] == 2).all()


def test_spread_within_groups():
    variance, freedom = seed_spread(np.array([1.0, 3.0]), np.array([10.0, 12.0, 14.0]), np.array([5.0]))
    assert (variance, freedom) == (pytest.approx((2 + 8) / 3), 3)
    assert seed_spread(np.array([1.0])) == (0, 0)


def test_permutations_and_bootstraps():
    assert permutation_p(5.0, np.arange(99) / 100) == pytest.approx(0.01)
    assert permutation_p(0.5, np.arange(99) / 99) > 0.9
    values = np.random.default_rng(0).normal(size=100)
    means = paired_bootstrap(lambda index: values[index].mean(), 100, replicates=500, seed=0)
    assert means.std() == pytest.approx(values.std() / 10, rel=0.15)


def pairs_of(nodes, rest, draws):
    k = len(nodes)
    noise = np.triu(draws.normal(0, rest, (k, k)), 1)
    return nodes[:, None] + nodes[None, :] + noise + noise.T


@pytest.mark.parametrize(("node", "rest"), [(1.0, 0.2), (0.1, 1.0)])
def test_variance_of_a_new_pair(node, rest):
    draws = np.random.default_rng(0)
    errors, variances, spread = [], [], []
    for _ in range(1500):
        d = pairs_of(draws.normal(0, node, 6), rest, draws)
        found = within_group(d[2:, 2:])
        errors.append(d[0, 1] - found.mean)
        variances.append(found.new_pair)
        means = np.array([np.delete(d[i, 2:], i - 2).mean() for i in range(2, 6)])
        spread.append(spread_out(means).var(ddof=1))
    assert np.mean(np.square(errors)) <= 1.1 * np.mean(variances)
    assert np.mean(variances) < 1.8 * np.mean(np.square(errors))
    assert np.mean(spread) >= 0.95 * (node**2 + rest**2 / 4)


def test_variance_of_a_new_pair_of_unlike_kinds():
    draws = np.random.default_rng(0)
    errors, variances = [], []
    for _ in range(1500):
        d = draws.normal(0, 1, 5)[:, None] + draws.normal(0, 0.5, 5)[None, :] + draws.normal(0, 0.3, (5, 5))
        found = between_groups(d[1:, 1:])
        errors.append(d[0, 0] - found.mean)
        variances.append(found.new_pair)
    assert np.mean(np.square(errors)) == pytest.approx(np.mean(variances), rel=0.2)


def test_logarithm_of_dissimilarity_is_finite():
    assert np.isfinite(log_dissimilarity(np.array([1.0, 1.0 + 1e-15, -0.1]))).all()
