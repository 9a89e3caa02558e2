"""Streamed sums against sums over everything at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.distributed import Processes
from microtome.gradients.layer_sums import LayerSums
from microtome.gradients.moments import Moments
from microtome.gradients.token_mass import TokenMass
from microtome.gradients.top_tokens import TopTokens


def samples(n: int, width: int = 5, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(draw.normal(size=width), 1, (length, width)) for length in draw.integers(1, 12, n)]


def streamed(parts: list[np.ndarray], at_once: int) -> Moments:
    moments = Moments(parts[0].shape[1])
    for start in range(0, len(parts), at_once):
        chunk = parts[start : start + at_once]
        lengths = torch.tensor([float(len(p)) for p in chunk])
        moments.count(lengths)
        moments.add(
            torch.tensor(np.array([p.sum(0) for p in chunk])),
            torch.tensor(np.array([np.abs(p).sum(0) for p in chunk])),
            lengths,
        )
    return moments


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 20), st.integers(1, 20))
def test_means_are_those_of_all_positions_at_once_however_they_came(n: int, at_once: int) -> None:
    parts = samples(n)
    moments = streamed(parts, at_once)
    everything = np.concatenate(parts)
    assert moments.positions == len(everything) and moments.samples == n
    np.testing.assert_allclose(moments.mean("mean"), everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.mean("mean_abs"), np.abs(everything).mean(0), rtol=1e-12)


def test_standard_error_is_the_spread_over_resampled_samples() -> None:
    parts = samples(60)
    moments = streamed(parts, 7)
    draw = np.random.default_rng(1)
    for mode, values in (("mean", parts), ("mean_abs", [np.abs(p) for p in parts])):
        sums, lengths = np.array([v.sum(0) for v in values]), np.array([len(v) for v in values])
        picks = draw.integers(0, 60, (4000, 60))
        means = sums[picks].sum(1) / lengths[picks].sum(1, keepdims=True)
        np.testing.assert_allclose(moments.standard_error(mode), means.std(0), rtol=0.08)
    assert Moments(3).standard_error().isnan().all()
    assert Moments(3, spread=False).standard_error().isnan().all()


def test_pairs_add_what_dense_sums_add() -> None:
    dense, sparse = Moments(4), Moments(4)
    signed = torch.tensor([[0.0, 2.0, 0.0, -1.0], [3.0, 0.0, 0.0, 0.5]])
    lengths = torch.tensor([3.0, 2.0])
    dense.add(signed, signed.abs() * 2, lengths)
    row, column = signed.nonzero(as_tuple=True)
    sparse.add_pairs(column, lengths[row], signed[row, column], signed[row, column].abs() * 2)
    torch.testing.assert_close(dense.sums, sparse.sums)


def test_merging_and_restoring_are_exact() -> None:
    parts = samples(9)
    whole = streamed(parts, 9)
    first, second = streamed(parts[:4], 4), streamed(parts[4:], 5)
    first.merge(second)
    torch.testing.assert_close(first.sums, whole.sums)
    torch.testing.assert_close(first.counts, whole.counts)
    again = Moments(5)
    again.restore(whole.state())
    assert torch.equal(again.sums, whole.sums) and torch.equal(again.counts, whole.counts)
    assert Processes().size == 1


# -- the tokens on which a value acts most


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4))
def test_top_tokens_are_those_of_a_full_sort_in_any_order_of_data(n: int, at_once: int, k: int) -> None:
    draw = np.random.default_rng(n)
    rows = [
        (int(draw.integers(0, 6)), float(draw.integers(-5, 6)), s, int(draw.integers(0, 9))) for s in range(n)
    ]
    rows = [row for row in rows if row[1]]
    expected = {
        feature: sorted(((-abs(v), s, p, v) for f, v, s, p in rows if f == feature))[:k]
        for feature in range(6)
    }
    for order in (rows, rows[::-1]):
        top = TopTokens(6, k)
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            f, v, s, p = (torch.tensor(list(column)) for column in zip(*part, strict=True))
            top.add(f, v.float(), s, p)
        for feature, best in expected.items():
            found = [
                (v, s, p)
                for v, s, p in zip(
                    top.values[feature].tolist(),
                    top.samples[feature].tolist(),
                    top.positions[feature].tolist(),
                    strict=True,
                )
                if s >= 0
            ]
            assert found == [(v, s, p) for _, s, p, v in best]


def test_the_share_of_the_strongest_tokens() -> None:
    mass = TokenMass()
    mass.add(torch.ones(1000))
    assert mass.share(0.001) == pytest.approx(0.001, rel=1e-6)
    mass.add(torch.tensor([1000.0]))
    assert mass.share(0.0001) == pytest.approx(0.5, rel=1e-6)
    assert np.isnan(TokenMass().share())


def test_the_state_of_a_layer_survives_a_checkpoint() -> None:
    sums = LayerSums(3, ["gradients", "values"], 2)
    sums.moments["gradients"].sums += 2.5
    sums.active += 3
    sums.mass.add(torch.tensor([1.0]))
    sums.top.add(torch.tensor([1]), torch.tensor([-4.0]), torch.tensor([7]), torch.tensor([2]))
    again = LayerSums(3, ["gradients", "values"], 2)
    again.restore({name: tensor.clone() for name, tensor in sums.state().items()})
    for name, tensor in again.state().items():
        assert torch.equal(tensor, sums.state()[name]), name
