"""A site under a mask against the weight matrix that the mask stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from written_out import VOCABULARY, WIDTH, method, tokens

from microtome.core.errors import MicrotomeError
from microtome.decomposition.masked_forward import masked_forward
from microtome.decomposition.site_masks import SiteMask, masked_output
from microtome.targets.network import Site


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(
    site: Site, x: Tensor, v: Tensor, u: Tensor, m: Tensor, r: Tensor | None, where: Tensor | None
) -> Tensor:
    """Every position's own weight matrix, multiplied out."""
    out = []
    for k in range(m.shape[0]):
        for at in torch.cartesian_prod(*(torch.arange(n) for n in m.shape[1:-1])).reshape(-1, m.ndim - 2):
            i = (k, *at.tolist())
            weight = v[k] @ torch.diag(m[i]) @ u[k]
            if r is not None:
                weight = weight + r[i] * (site.weight[k] - v[k] @ u[k])
            if where is not None and not bool(where[i]):
                weight = site.weight[k]
            row = x[i] @ weight if x.is_floating_point() else weight[x[i]]
            out.append(row if site.bias is None else row + site.bias[k])
    return torch.stack(out).reshape(*m.shape[:-1], -1)


@settings(deadline=None, max_examples=25)
@given(
    ids=st.booleans(), bias=st.booleans(), delta=st.booleans(), routed=st.booleans(), length=st.integers(0, 3)
)
def test_masked_output_is_the_masked_weight(
    ids: bool, bias: bool, delta: bool, routed: bool, length: int
) -> None:
    where = (2, 3, *((length,) if length else ()))
    d_in = VOCABULARY if ids else 4
    site = Site("s", numbers(2, d_in, 5), numbers(2, 5, seed=1) if bias else None, None)
    x = torch.randint(d_in, where) if ids else numbers(*where, d_in, seed=2)
    v, u, m = numbers(2, d_in, 3, seed=3), numbers(2, 3, 5, seed=4), numbers(*where, 3, seed=5)
    r = numbers(*where, seed=6) if delta else None
    route = numbers(*where, seed=7) > 0 if routed else None
    found = masked_output(site, x, (v, u), SiteMask(m, r, route))
    torch.testing.assert_close(found, by_hand(site, x, v, u, m, r, route))


def test_masks_are_broadcast() -> None:
    site = Site("s", numbers(2, 4, 5))
    x, v, u = numbers(2, 3, 6, 4, seed=2), numbers(2, 4, 3, seed=3), numbers(2, 3, 5, seed=4)
    one, rows = numbers(1, 1, 1, 3, seed=5), numbers(2, 3, seed=6) > 0
    spread = rows.unsqueeze(-1).expand(2, 3, 6)
    found = masked_output(site, x, (v, u), SiteMask(one, None, rows))
    torch.testing.assert_close(found, by_hand(site, x, v, u, one.expand(2, 3, 6, 3), None, spread))


def test_where_nothing_is_masked_it_is_the_target() -> None:
    made, x = method(), tokens()
    output, inputs = made.network.record(x)
    everywhere = {
        name: [
            SiteMask(
                torch.ones(1, 1, 1, 3, dtype=torch.float64), None, torch.zeros(x.shape, dtype=torch.bool)
            )
            for _ in calls
        ]
        for name, calls in inputs.items()
    }
    assert torch.equal(made.network.run(x, made.factors(), everywhere), output)
    whole = {
        name: [
            SiteMask(torch.ones(1, 1, 1, 3, dtype=torch.float64), torch.ones(x.shape, dtype=torch.float64))
        ]
        for name in inputs
    }
    torch.testing.assert_close(made.network.run(x, made.factors(), whole), output)
    torch.testing.assert_close(made.target(x), output)


def test_every_call_has_its_own_mask_and_what_is_left_out_runs_as_trained() -> None:
    made, x = method(), tokens()
    factors = made.factors()
    first, second = numbers(1, 1, 1, 3, seed=1), numbers(1, 1, 1, 3, seed=2)
    _, seen = made.network.run_recording(x, factors, {"mid": [SiteMask(first), SiteMask(second)]})
    site = made.network.sites["mid"]
    hidden = torch.tanh(masked_output(site, seen["mid"][0], factors["mid"], SiteMask(first)))
    torch.testing.assert_close(seen["mid"][1], hidden)
    last = torch.tanh(masked_output(site, hidden, factors["mid"], SiteMask(second)))
    torch.testing.assert_close(seen["out"][0], last)
    assert torch.equal(seen["emb"][0], x)
    torch.testing.assert_close(
        masked_forward(
            made.network,
            factors,
            x,
            {
                "mid": [first, second],
                "emb": SiteMask(
                    torch.ones(1, 1, 1, 3, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
                ),
                "out": SiteMask(
                    torch.ones(1, 1, 1, 3, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
                ),
            },
        ),
        made.network.run(x, factors, {"mid": [SiteMask(first), SiteMask(second)]}),
    )


def test_flat_masks_and_mistakes() -> None:
    made, x = method(), tokens()
    m = numbers(*x.shape, 3)
    flat = masked_forward(made.network, made.factors(), x, {"mid": m.flatten(1, 2)})
    torch.testing.assert_close(flat, masked_forward(made.network, made.factors(), x, {"mid": m}))
    with pytest.raises(MicrotomeError, match="no such site; sites: emb, mid, out"):
        masked_forward(made.network, made.factors(), x, {"middle": m})
    with pytest.raises(MicrotomeError, match="give one of 3"):
        masked_forward(made.network, made.factors(), x, {"mid": m[..., :2]})
    assert m.shape[-1] == 3 and WIDTH == 4
