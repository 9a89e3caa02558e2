"""Random numbers that do not depend on how a batch is cut, and the subsets of sites made of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from written_out import SITES, method, tokens

from microtome.decomposition.loss_configs import StaticProbability, UniformKSubset
from microtome.decomposition.mask_makers import full_masks, importance_masks, stochastic_masks
from microtome.decomposition.masks import Draws
from microtome.decomposition.routing import route, uniform_k_subset

LIKE = torch.empty(0)


@given(st.integers(1, 60), st.data(), st.sampled_from([(), (3,), (2000, 7)]), st.sampled_from([1, 2]))
def test_rows_have_their_numbers_in_every_cut(
    n: int, data: st.DataObject, rest: tuple[int, ...], k: int
) -> None:
    a = data.draw(st.integers(0, n - 1))
    b = data.draw(st.integers(a + 1, n))
    whole = Draws(7).uniform(99, (k, n, *rest), slice(0, n), LIKE)
    part = Draws(8).uniform(99, (k, b - a, *rest), slice(a, b), LIKE)
    assert torch.equal(part, whole[:, a:b])


def test_numbers_are_uniform_and_fresh() -> None:
    draws = Draws(3)
    first, second = (draws.uniform(draws.key(), (1, 300, 200), slice(0, 300), LIKE) for _ in range(2))
    assert float(first.min()) >= 0 and float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 5e-3 and abs(float(first.std()) - 12**-0.5) < 5e-3
    for other in (second, first.roll(1, 1), first.roll(1, 2)):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 0.02
    again = Draws(3)
    assert torch.equal(again.uniform(again.key(), (1, 300, 200), slice(0, 300), LIKE), first)


def test_subsets_have_every_size_and_every_member_alike() -> None:
    g = torch.Generator().manual_seed(0)
    chosen = uniform_k_subset(torch.rand(40_000, 4, generator=g), torch.rand(40_000, generator=g))
    sizes = chosen.sum(-1)
    for k in range(1, 5):
        assert abs(float((sizes == k).float().mean()) - 0.25) < 0.01
        members = chosen[sizes == k].float().mean(0)
        torch.testing.assert_close(members, torch.full((4,), k / 4), atol=0.02, rtol=0)


def test_the_passes_of_every_kind_of_route() -> None:
    made = method()
    step, _ = made.step_on(tokens(2000), 0, Draws(1))
    ((share, routes),) = route(step, "all")
    assert share == 1 and routes == dict.fromkeys(SITES)
    passes = list(route(step, "layerwise"))
    assert [routes for _, routes in passes] == [{name: None} for name in SITES]
    assert [share for share, _ in passes] == pytest.approx([1 / 3] * 3)
    ((share, routes),) = route(step, "subset", StaticProbability(p=0.25))
    assert share == 1
    for where in routes.values():
        assert where is not None and where.shape == step.x.shape
        assert abs(float(where.float().mean()) - 0.25) < 0.02
    ((_, routes),) = route(step, "subset", UniformKSubset())
    stacked = torch.stack([where for where in routes.values() if where is not None])
    assert bool(stacked.any(0).all()), "every position masks a site at least"


def test_masks_are_between_importance_and_one_and_the_same_when_asked_again() -> None:
    made = method(use_delta_component=True)
    step, _ = made.step_on(tokens(), 0, Draws(1))
    routes = dict.fromkeys(SITES)
    masks = stochastic_masks(step, routes)
    assert {name: len(masks[name]) for name in masks} == SITES
    for name, calls in step.lower.items():
        for call, lower in enumerate(calls):
            mask = masks[name][call]
            one = torch.ones_like(lower)
            low, high = torch.minimum(lower, one), torch.maximum(lower, one)
            assert bool(((mask.components >= low) & (mask.components <= high)).all())
            assert mask.delta is not None and mask.delta.shape == lower.shape[:-1]
            assert torch.equal(mask.components, masks[name][call].components)
            assert importance_masks(step, routes)[name][call].components is lower
            assert bool((full_masks(step, routes)[name][call].components == 1).all())
    fresh = stochastic_masks(step, routes)["out"][0].components
    assert not torch.equal(fresh, masks["out"][0].components)
    assert not torch.equal(masks["mid"][0].components - step.lower["mid"][0], masks["mid"][1].components)
