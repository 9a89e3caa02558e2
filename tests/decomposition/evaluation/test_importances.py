"""Statistics of causal importances over batches, against loops over every row and component."""

from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.decomposition.evaluation.importances import (
    HISTOGRAM_EDGES,
    L0,
    Alive,
    Histograms,
    PerComponent,
    groups_of,
)

SITES = ("layers.0.mlp_in", "layers.0.mlp_out", "layers.1.mlp_in")
THRESHOLD = 0.2


def batches(seed: int, n: int, k: int = 2, rows: int = 4) -> list[dict[str, Tensor]]:
    """Importances with many zeros and ones, and some below 0 and above 1; C differs by site."""
    draws = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        one = {}
        for c, site in enumerate(SITES, start=2):
            values = torch.rand(k, rows, c, generator=draws) * 1.6 - 0.3
            snap = torch.rand(k, rows, c, generator=draws)
            one[site] = torch.where(snap < 0.3, 0.0, torch.where(snap < 0.4, 1.0, values))
        out.append(one)
    return out


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_l0_of_sites_groups_and_all(seed: int, n: int):
    metric = L0(SITES, THRESHOLD, {"inner": ["*.mlp_in"], "first": ["layers.0.*"]})
    seen = batches(seed, n)
    for one in seen:
        metric.update(one)
    for b, one in enumerate(seen):
        counts = {}
        for site, ci in one.items():
            for k in range(2):
                active = [[float(v) > THRESHOLD for v in row] for row in ci[k]]
                counts[site, k] = sum(map(sum, active)) / len(active)
        for k in range(2):
            for site in SITES:
                assert metric.series[site].values[b, k] == pytest.approx(counts[site, k])
            for name, pattern in (("inner", "*.mlp_in"), ("first", "layers.0.*"), ("all", "*")):
                wanted = sum(counts[site, k] for site in SITES if fnmatchcase(site, pattern))
                assert metric.series[name].values[b, k] == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_histograms_count_every_entry_once(seed: int, n: int):
    metric, seen = Histograms(), batches(seed, n)
    for one in seen:
        metric.update(one)
    edges = HISTOGRAM_EDGES.astype(np.float32)
    for site in SITES:
        for k in range(2):
            counts = np.zeros(60, dtype=int)
            for value in torch.cat([one[site][k] for one in seen]).flatten().tolist():
                at = sum(1 for edge in edges if edge <= np.float32(value)) - 1
                counts[min(max(at, 0), 59)] += 1
            np.testing.assert_array_equal(metric.arrays()[f"histogram/{site}"][k], counts)


def test_zero_and_one_lie_in_bins_that_begin_with_them():
    metric = Histograms()
    metric.update({"a": torch.tensor([[[0.0, 1.0, -1e-3, 5.0, -5.0]]])})
    filled = {float(HISTOGRAM_EDGES[i]): int(c) for i, c in enumerate(metric.counts["a"][0]) if c}
    assert filled == {-0.1: 1, -0.02: 1, 0.0: 1, 1.0: 1, 1.08: 1}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_means_and_densities_of_components(seed: int, n: int):
    metric, seen = PerComponent(THRESHOLD), batches(seed, n)
    for one in seen:
        metric.update(one)
    for site in SITES:
        for k in range(2):
            rows = [row for one in seen for row in one[site][k].tolist()]
            for c in range(len(rows[0])):
                values = [row[c] for row in rows]
                assert metric.mean()[site][k, c] == pytest.approx(sum(values) / len(values), abs=1e-6)
                share = sum(v > THRESHOLD for v in values) / len(values)
                assert metric.density()[site][k, c] == pytest.approx(share)


def test_a_site_that_runs_twice_is_counted_by_its_own_inputs():
    metric = PerComponent()
    metric.update({"once": torch.full((1, 4, 2), 0.5), "twice": torch.full((1, 8, 2), 0.5)})
    assert metric.mean()["twice"].tolist() == [[0.5, 0.5]]
    assert metric.density()["twice"].tolist() == [[1.0, 1.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 12)))
def test_alive_and_dead_by_the_time_since_each_component_fired(seed: int, n: int, until_dead: int | None):
    metric, seen = Alive(0.9, until_dead), batches(seed, n)
    for one in seen:
        metric.update(one)
    for site in SITES:
        for k in range(2):
            rows = torch.cat([one[site][k] for one in seen])
            for c in range(rows.shape[1]):
                fired = [i for i, value in enumerate(rows[:, c].tolist()) if value > np.float32(0.9)]
                since = len(rows) - 1 - fired[-1] if fired else len(rows)
                limit = len(rows) if until_dead is None else until_dead
                assert metric.alive()[site][k, c] == (bool(fired) and since < limit)
                assert metric.dead()[site][k, c] == (since >= limit)


def test_a_component_seen_for_too_short_is_neither_alive_nor_dead():
    metric = Alive(0.0, until_dead=10)
    metric.update({"a": torch.tensor([[[1.0, 0.0]] * 4])})
    assert metric.alive()["a"].tolist() == [[True, False]]
    assert metric.dead()["a"].tolist() == [[False, False]]


def test_a_group_that_matches_nothing_lists_the_sites():
    with pytest.raises(MicrotomeError, match=r"groups.x='h.\*': matches no site; sites: a, b"):
        groups_of(["a", "b"], {"x": ["h.*"]})


def test_nothing_grows_with_the_number_of_inputs():
    l0, hist, each, alive = L0(["a"]), Histograms(), PerComponent(), Alive()
    for _ in range(3):
        for metric in (l0, hist, each, alive):
            metric.update({"a": torch.rand(1, 1000, 3)})
    held = [*hist.counts.values(), *each._sum.values(), *each._active.values(), *alive._since.values()]
    assert max(tensor.numel() for tensor in held) == 60
    assert l0.series["a"].values.shape == (3, 1)
