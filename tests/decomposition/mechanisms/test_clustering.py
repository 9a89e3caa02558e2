"""Clustering by description length against plain loops and every clustering there is."""

import itertools
import math

import numpy as np
import pytest
import torch

from microtome.decomposition.mechanisms.clusterings import distances, pair_distance
from microtome.decomposition.mechanisms.description_length import (
    description_length,
    merge_changes,
    weight_changes,
)
from microtome.decomposition.mechanisms.merging import merge_components, shuffled


def slow_cost(fires, rank, labels, alpha):
    """Sum over inputs of what sending it costs, in plain loops."""
    clusters = {label: [c for c in range(len(labels)) if labels[c] == label] for label in set(labels)}
    names = weights = 0.0
    for row in fires.tolist():
        for members in clusters.values():
            if any(row[c] for c in members):
                names += math.log2(len(clusters))
                weights += alpha * sum(rank[c] for c in members)
    return names / len(fires), weights / len(fires)


def partitions(n):
    """Every clustering of n components as restricted growth strings."""

    def grow(prefix):
        if len(prefix) == n:
            yield tuple(prefix)
            return
        for label in range(max(prefix, default=-1) + 2):
            yield from grow([*prefix, label])

    return list(grow([]))


def random_fires(n=40, c=6, seed=0, density=0.3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, c, generator=g) < density


def planted(n=600, groups=(3, 2, 4), seed=0):
    """Each group fires as one, on a tenth of the inputs, independently of the others."""
    g = torch.Generator().manual_seed(seed)
    return torch.cat([(torch.rand(n, 1, generator=g) < 0.1).expand(n, size) for size in groups], 1)


def test_cost_is_what_sending_every_input_costs():
    fires = random_fires()
    density = fires.double().mean(0)
    for rank in (torch.ones(6), torch.tensor([1.0, 2, 3, 1, 1, 5])):
        found = description_length(density, rank.double(), 0.7)
        assert (found.names, found.weights) == pytest.approx(slow_cost(fires, rank.tolist(), range(6), 0.7))
        assert found.total == found.names + found.weights


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 4.0])
def test_change_of_a_merge_is_the_difference_of_two_costs(alpha):
    fires = random_fires(seed=3)
    rank = torch.tensor([1.0, 2, 1, 1, 3, 1]).double()
    both = fires.double().T @ fires.double() / len(fires)
    changes, constant = merge_changes(both, weight_changes(both, rank, alpha))
    before = sum(slow_cost(fires, rank.tolist(), range(6), alpha))
    for i, j in itertools.combinations(range(6), 2):
        labels = [i if c == j else c for c in range(6)]
        after = sum(slow_cost(fires, rank.tolist(), labels, alpha))
        assert float(changes[i, j]) + constant == pytest.approx(after - before)
        assert changes[i, j] == changes[j, i]
    assert torch.isinf(changes.diagonal()).all()


@pytest.mark.parametrize("temperature", [None, 0.05])
def test_every_step_of_a_history_has_its_clusterings_cost(temperature):
    fires, rank = random_fires(seed=4, c=7), torch.tensor([1.0, 1, 2, 1, 1, 3, 1])
    history = merge_components(fires, rank, 0.5, temperature, torch.Generator().manual_seed(1))
    for merges in range(7):
        labels = history.labels(merges)
        assert len(set(labels.tolist())) == 7 - merges
        expected = slow_cost(fires, rank.tolist(), labels.tolist(), 0.5)
        assert (history.names[merges], history.weights[merges]) == pytest.approx(expected)


def test_greedy_takes_the_cheapest_merge_every_time():
    fires = random_fires(seed=5, c=6)
    history = merge_components(fires, alpha=0.4)
    for merges in range(5):
        labels = history.labels(merges).tolist()
        options = [
            sum(slow_cost(fires, [1] * 6, [a if one == b else one for one in labels], 0.4))
            for a, b in itertools.combinations(sorted(set(labels)), 2)
        ]
        assert history.total[merges + 1] == pytest.approx(min(options))


def test_best_of_all_clusterings_is_found_where_groups_fire_together():
    fires = planted(groups=(2, 1, 3))
    costs = {labels: sum(slow_cost(fires, [1] * 6, labels, 1.0)) for labels in partitions(6)}
    assert len(costs) == 203  # Bell number
    best = min(costs, key=costs.__getitem__)
    history = merge_components(fires)
    assert tuple(history.labels().tolist()) == best == (0, 0, 1, 2, 2, 2)
    assert history.total[history.best] == pytest.approx(costs[best])


def test_never_better_than_the_best_of_all_clusterings():
    for seed in range(4):
        fires = random_fires(seed=seed, c=5, n=30)
        best = min(sum(slow_cost(fires, [1] * 5, labels, 0.2)) for labels in partitions(5))
        assert merge_components(fires, alpha=0.2).total.min() >= best - 1e-9


def test_planted_groups_are_the_clusters():
    history = merge_components(planted())
    assert history.labels().tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert history.best == 6
    assert history.total[0] - history.total[history.best] > 0.5


def test_shuffled_firings_are_as_many_and_save_less():
    fires = planted()
    other = shuffled(fires, torch.Generator().manual_seed(0))
    assert torch.equal(fires.sum(0), other.sum(0)) and not torch.equal(fires, other)
    saved = [h.total[0] - h.total.min() for h in (merge_components(fires), merge_components(other))]
    assert saved[1] < saved[0] / 5


def test_cold_stochastic_merging_is_greedy_and_warm_is_not():
    fires = random_fires(seed=8, c=8, n=100)
    greedy = merge_components(fires)
    cold = merge_components(fires, temperature=1e-6, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(cold.pairs, greedy.pairs)
    warm = [
        merge_components(fires, temperature=1.0, generator=torch.Generator().manual_seed(s)).pairs
        for s in (0, 0, 1)
    ]
    assert np.array_equal(warm[0], warm[1]) and not np.array_equal(warm[0], warm[2])


def test_stochastic_first_pairs_are_drawn_by_their_softmax():
    fires, temperature = random_fires(seed=9, c=4, n=50), 0.3
    both = fires.double().T @ fires.double() / 50
    costs, _ = merge_changes(both, weight_changes(both, torch.ones(4).double(), 1.0))
    pairs = list(itertools.combinations(range(4), 2))
    wanted = torch.softmax(torch.stack([-costs[i, j] / temperature for i, j in pairs]), 0)
    g = torch.Generator().manual_seed(0)
    drawn = [tuple(merge_components(fires, None, 1.0, temperature, g).pairs[0]) for _ in range(1500)]
    found = torch.tensor([drawn.count(pair) / 1500 for pair in pairs], dtype=torch.float64)
    assert (found - wanted).abs().max() < 4 * math.sqrt(0.25 / 1500)


def test_distances_between_clusterings():
    a, b = np.array([0, 0, 1, 1, 2]), np.array([5, 5, 5, 1, 2])
    slow = sum((a[i] == a[j]) != (b[i] == b[j]) for i, j in itertools.combinations(range(5), 2))
    assert pair_distance(a, b) == slow == 3
    assert pair_distance(a, a + 7) == 0
    found = distances(np.stack([a, b, a[::-1].copy() * 0 + a]))
    assert found["adjusted_rand"][0, 2] == 1 and found["adjusted_rand"][0, 1] < 1
    assert found["pairs"].tolist() == [[0, 3, 0], [3, 0, 3], [0, 3, 0]]


def test_one_component_is_one_cluster():
    history = merge_components(torch.tensor([[True], [False]]))
    assert history.best == 0 and history.labels().tolist() == [0] and history.pairs.shape == (0, 2)
