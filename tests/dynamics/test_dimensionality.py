"""Measures of dimensionality against float64 singular values, and what becomes a row."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.measures import dimensionality
from microtome.measures.dimensionality import MEASURES, measure_all, register, rows_of, spectrum


def by_singular_values(x):
    """Every measure by its definition, from the singular values of x."""
    s = torch.linalg.svdvals(x.double())
    energy, shares = s.square(), s / s.sum()
    shares = shares[shares > 0]
    return {
        "stable_rank": energy.sum() / s[0] ** 2,
        "participation_ratio": energy.sum() ** 2 / energy.square().sum(),
        "participation_ratio_singular_values": s.sum() ** 2 / energy.sum(),
        "effective_rank_90": (torch.cumsum(energy, 0) / energy.sum() < 0.9).sum() + 1,
        "nuclear_norm_ratio": s.sum() / s[0],
        "entropy_rank": torch.exp(-(shares * shares.log()).sum()),
    }


def matrix(n, d, decades, dtype=torch.float32):
    """Singular values from 1 down to 10^-decades, log-spaced."""
    k = min(n, d)
    u, _ = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))
    return ((u * torch.logspace(0, -decades, k, dtype=torch.float64)) @ v.T * 7).to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(64, 200), (200, 64), (50, 50), (10, 3), (1, 5), (5, 1)]),
    decades=st.sampled_from([0, 2, 5, 7, 9, 12, 20]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_equal_to_singular_values_however_badly_conditioned(shape, decades, dtype, seed):
    torch.manual_seed(seed)
    x = matrix(*shape, decades, dtype)
    found = measure_all({"layer": x})["layer"]
    for name, value in by_singular_values(x).items():
        if name == "effective_rank_90":  # a count: equal values may reach 90 % to the last bit, or just not
            energy = torch.linalg.svdvals(x.double()).square()
            shares = torch.cumsum(energy, 0) / energy.sum()
            assert (shares < 0.9 - 1e-9).sum() + 1 <= found[name] <= (shares < 0.9 + 1e-9).sum() + 1
        else:
            assert found[name] == pytest.approx(float(value), rel=1e-10), name


def test_numbers_worked_by_hand():
    # Singular values 3, 2, 1, 0: squares 9, 4, 1.
    x = torch.zeros(5, 4)
    x[0, 1], x[1, 0], x[2, 2] = 3.0, 2.0, -1.0
    found = measure_all({"layer": x})["layer"]
    assert found["stable_rank"] == pytest.approx(14 / 9)
    assert found["participation_ratio"] == pytest.approx(196 / 98)
    assert found["participation_ratio_singular_values"] == pytest.approx(36 / 14)
    assert found["effective_rank_90"] == 2  # 9/14 = .64, 13/14 = .93
    assert found["nuclear_norm_ratio"] == pytest.approx(2)
    entropy = -sum(p * math.log(p) for p in (1 / 2, 1 / 3, 1 / 6))
    assert found["entropy_rank"] == pytest.approx(math.exp(entropy))


def test_layers_of_all_sizes_together_are_each_alone():
    layers = {f"{n}x{d}": torch.randn(n, d) for n, d in [(64, 100), (64, 10), (30, 64), (64, 100)]}
    layers["again"] = torch.randn(64, 100)
    together = measure_all(layers)
    for name, x in layers.items():
        assert together[name] == pytest.approx(measure_all({name: x})[name], rel=1e-12)


def test_a_short_layer_beside_a_long_one_is_not_computed_twice(monkeypatch):
    monkeypatch.setattr(dimensionality, "_refined", lambda *_: pytest.fail("well conditioned"))
    measure_all({"long": torch.randn(64, 100), "short": torch.randn(64, 3)})


def test_nothing_and_nonsense():
    found = measure_all(
        {"zero": torch.zeros(4, 3), "nan": torch.tensor([[1.0, math.nan]]), "x": torch.eye(3)}
    )
    assert set(found["zero"].values()) == {0.0}
    assert all(math.isnan(value) for value in found["nan"].values())
    assert found["x"]["stable_rank"] == pytest.approx(3)
    with pytest.raises(MicrotomeError, match="none to measure"):
        measure_all({})
    with pytest.raises(MicrotomeError, match=r"measures='stable_rnak'.*choose from stable_rank"):
        measure_all({"x": torch.eye(3)}, ["stable_rnak"])


def test_centred_is_the_spectrum_of_what_is_left_without_the_mean():
    x = torch.randn(40, 6) + 5
    expected = torch.linalg.svdvals((x - x.mean(0)).double()).square().numpy()
    np.testing.assert_allclose(spectrum(x, center=True), expected, rtol=1e-6)


def test_a_measure_of_your_own(monkeypatch):
    monkeypatch.setattr(dimensionality, "MEASURES", dict(MEASURES))
    register("largest", lambda eigenvalues: eigenvalues[..., 0])
    found = measure_all({"x": 2 * torch.eye(3)}, ["largest", "stable_rank"])["x"]
    assert found == pytest.approx({"largest": 4.0, "stable_rank": 3.0})
    with pytest.raises(MicrotomeError, match="name='largest'"):
        register("largest", lambda eigenvalues: eigenvalues[..., 1])


def test_rows():
    images, tokens = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5)
    assert torch.equal(rows_of(images), images.mean((2, 3)))
    assert torch.equal(rows_of(images, conv="flatten"), images.reshape(3, 120))
    assert torch.equal(rows_of(tokens), tokens.reshape(12, 5))
    assert torch.equal(rows_of(tokens, "channels_first"), tokens.mean(2))
    assert torch.equal(rows_of(images, "features_last"), images.reshape(60, 6))
    channels_last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(rows_of(channels_last), images.mean((2, 3)))
    assert rows_of(torch.randn(7)).shape == (7, 1)
    many = torch.randn(100, 30)
    thin = rows_of(many, most_rows=10)
    assert thin.shape == (10, 30)
    assert torch.equal(thin[0], many[0]) and torch.equal(thin[-1], many[-1])
    assert rows_of(torch.randn(100, 5), most_rows=10).shape == (100, 5)
