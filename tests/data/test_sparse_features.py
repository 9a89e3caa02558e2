import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator
from microtome.data.generation import EXACT_COUNTS
from microtome.data.loading import data_from_spec
from microtome.data.sparse_features import SparseFeatures


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(EXACT_COUNTS)),
    n=st.integers(5, 12),
    k=st.integers(1, 3),
    b=st.integers(1, 40),
    low=st.floats(0.1, 1),
    seed=st.integers(0, 10**6),
)
def test_exactly_that_many_features_are_on(kind: str, n: int, k: int, b: int, low: float, seed: int) -> None:
    data = SparseFeatures(k, n, 0.5, kind, (low, low + 1))  # pyright: ignore
    x = data.batch(b, generator(seed))
    assert x.shape == (k, b, n)
    assert ((x != 0).sum(-1) == EXACT_COUNTS[kind]).all()
    on = x[x != 0]
    assert on.min() >= low * (1 - 1e-6) and on.max() <= low + 1 + 1e-6


@settings(max_examples=25, deadline=None)
@given(p=st.floats(0.0, 1.0), low=st.floats(-2, 1), width=st.floats(0.1, 3), seed=st.integers(0, 10**6))
def test_independent_features_have_the_asked_probability_and_uniform_values(
    p: float, low: float, width: float, seed: int
) -> None:
    data = SparseFeatures(2, 5, p, "at_least_zero_active", (low, low + width))
    x = data.batch(20_000, generator(seed)).flatten()
    on = x[x != 0]
    n = x.numel()
    # Six standard deviations, and room for the rare exact zero among the values.
    assert abs(len(on) / n - p) <= 6 * (p * (1 - p) / n) ** 0.5 + 1e-4
    if len(on) > 1000:
        position = ((on - low) / width).double()
        assert position.min() > -1e-5 and position.max() < 1 + 1e-5
        quartiles = torch.histc(position, 4, 0, 1) / len(on)
        assert (quartiles - 0.25).abs().max() < 6 * (0.1875 / len(on)) ** 0.5


def test_features_are_independent_of_each_other_and_of_the_instance() -> None:
    x = (SparseFeatures(2, 3, 0.3).batch(200_000, generator(0)) != 0).float()
    flat = torch.cat([x[0], x[1]], dim=1).T
    correlations = torch.corrcoef(flat) - torch.eye(6)
    assert correlations.abs().max() < 0.02


def test_each_feature_is_as_likely_when_the_count_is_exact() -> None:
    for kind, count in EXACT_COUNTS.items():
        x = SparseFeatures(1, 8, 0.1, kind).batch(40_000, generator(1))[0]  # pyright: ignore
        share = (x != 0).float().mean(0)
        assert (share - count / 8).abs().max() < 0.015


@settings(max_examples=20, deadline=None)
@given(p=st.floats(0.05, 0.6), seed=st.integers(0, 10**6))
def test_synced_groups_fire_together(p: float, seed: int) -> None:
    x = SparseFeatures(2, 6, p, synced_inputs=[[0, 3], [1, 4, 5]]).batch(5000, generator(seed))
    on = x != 0
    assert torch.equal(on[..., 0], on[..., 3])
    assert torch.equal(on[..., 1], on[..., 4]) and torch.equal(on[..., 1], on[..., 5])
    # A group is on as soon as one of its members is.
    assert abs(on[..., 1].float().mean().item() - (1 - (1 - p) ** 3)) < 0.04
    assert abs(on[..., 2].float().mean().item() - p) < 0.04
    both = x[on[..., 0]]
    assert (both[:, 0] != both[:, 3]).float().mean() > 0.99  # values of their own


def test_no_zero_rows() -> None:
    data = SparseFeatures(3, 5, 0.02)
    x = data.nonzero_batch(500, generator(0))
    assert x.shape == (3, 500, 5) and (x != 0).any(-1).all()
    assert (x != 0).float().mean().item() == pytest.approx(0.02 / (1 - 0.98**5), rel=0.1)
    with pytest.raises(MicrotomeError, match="feature_probability"):
        SparseFeatures(1, 5, 0.0).nonzero_batch(1)


def test_probability_zero_and_one() -> None:
    assert SparseFeatures(1, 5, 0.0).batch(100).abs().max() == 0
    assert (SparseFeatures(1, 5, 1.0, value_range=(0.5, 1)).batch(100) != 0).all()


def test_the_same_generator_gives_the_same_batches() -> None:
    data = SparseFeatures(2, 5, 0.2)
    assert torch.equal(data.batch(50, generator(3)), data.batch(50, generator(3)))
    assert data.batch(4, n_instances=7).shape == (7, 4, 5)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"feature_probability": 1.5}, "feature_probability=1.5"),
        ({"feature_probability": float("nan")}, "feature_probability=nan"),
        ({"n_features": 3, "data_generation_type": "exactly_four_active"}, "data_generation_type"),
        ({"data_generation_type": "exactly_five_active", "n_features": 4}, "data_generation_type"),
        ({"value_range": (1.0, 1.0)}, "value_range"),
        ({"synced_inputs": [[0, 1], [1, 2]]}, "synced_inputs"),
        ({"synced_inputs": [[0, 9]]}, "synced_inputs"),
        ({"synced_inputs": [[0, 1]], "data_generation_type": "exactly_one_active"}, "synced_inputs"),
    ],
)
def test_bad_settings_name_the_field(settings: dict, field: str) -> None:
    with pytest.raises(MicrotomeError, match=field):
        SparseFeatures(**settings)


def test_spec_makes_the_same_source() -> None:
    data = SparseFeatures(2, 6, 0.3, value_range=(-1, 1), synced_inputs=[[0, 1]])
    again = data_from_spec(data.spec())
    assert torch.equal(again.batch(20, generator(0), 2), data.batch(20, generator(0)))
