"""Neuron contributions, virtual weights and per-feature losses against loops."""

import numpy as np
import pytest
import torch

from microtome.measures import contributions, per_feature

N, E, M, C = 4, 6, 3, 5


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {
        "embed": rng.normal(size=(N, E)),
        "w_in": rng.normal(size=(C, E, M)),
        "w_out": rng.normal(size=(C, M, E)),
        "unembed": rng.normal(size=(E, N)),
    }


def slow_contribution(embed, w_in, w_out, unembed, i, k):
    read = sum(embed[i, e] * w_in[e, k] for e in range(E))
    write = sum(w_out[k, e] * unembed[e, i] for e in range(E))
    return read * write


def test_contributions_match_loops(weights):
    embed, w_in, w_out, unembed = weights.values()
    whole = contributions.neuron_contributions(embed, w_in.sum(0), w_out.sum(0), unembed)
    shared = contributions.component_neuron_contributions(embed, w_in, w_out.sum(0), unembed)
    own = contributions.component_neuron_contributions(embed, w_in, w_out, unembed)
    for i in range(N):
        for k in range(M):
            assert whole[i, k] == pytest.approx(
                slow_contribution(embed, w_in.sum(0), w_out.sum(0), unembed, i, k)
            )
            for c in range(C):
                assert shared[c, i, k] == pytest.approx(
                    slow_contribution(embed, w_in[c], w_out.sum(0), unembed, i, k)
                )
                assert own[c, i, k] == pytest.approx(
                    slow_contribution(embed, w_in[c], w_out[c], unembed, i, k)
                )
    np.testing.assert_allclose(shared.sum(0), whole, atol=1e-12)


def test_the_best_component_is_the_planted_one():
    """Feature i is read by component ``order[i]`` alone and written back by the same neuron."""
    order = [3, 0, 4]
    w_in = np.zeros((C, 3, 3))
    for i, c in enumerate(order):
        w_in[c, i, i] = i + 1.0
    values = contributions.component_neuron_contributions(np.eye(3), w_in, 2 * np.eye(3), np.eye(3))
    best = contributions.best_component_contributions(values)
    assert best.component.tolist() == order
    np.testing.assert_allclose(best.values, np.diag([2.0, 4.0, 6.0]))


def test_the_best_component_by_sum_and_by_largest_neuron_can_differ():
    values = np.zeros((2, 1, 3))
    values[0, 0], values[1, 0] = [0.5, 0.5, 0.5], [1.0, 0.0, 0.0]
    assert contributions.best_component_contributions(values).component.tolist() == [0]
    assert contributions.best_component_contributions(values, "largest").component.tolist() == [1]


def test_virtual_weights_are_the_products(weights):
    embed, w_in, w_out, unembed = weights.values()
    virtual = contributions.virtual_weights(embed, w_in[0], w_out[0], unembed)
    x = np.eye(N)[1]
    np.testing.assert_allclose(((x @ embed) @ w_in[0]) @ w_out[0] @ unembed, virtual.through[1])
    np.testing.assert_allclose((x @ embed) @ unembed, virtual.direct[1])
    np.testing.assert_allclose(
        np.einsum("nm,mn->nm", virtual.read, virtual.write),
        contributions.neuron_contributions(embed, w_in[0], w_out[0], unembed),
    )


def test_one_feature_inputs_are_in_the_documented_order():
    rows = per_feature.one_feature_inputs(3, torch.tensor([0.5, 2.0]))
    expected = [[0.5, 0, 0], [2, 0, 0], [0, 0.5, 0], [0, 2, 0], [0, 0, 0.5], [0, 0, 2]]
    assert rows.tolist() == expected
