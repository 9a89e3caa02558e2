"""Kernels of the full step, the subcomponents innermost, against their formulas."""

import pytest
import torch
from torch import Tensor

from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.fused_draws import can_fuse, drawn_inner
from microtome.decomposition.fused_sigmoids import both_sigmoids
from microtome.decomposition.site_masks import DrawnMask, SiteMask


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("with_delta", [False, True])
@pytest.mark.parametrize("with_route", [False, True])
def test_drawn_masks_equal_the_formula(with_delta, with_route):
    inner, lower, source = (numbers(2, 5, 3, 17, seed=i) for i in range(3))
    delta = numbers(2, 5, 3, seed=3) if with_delta else None
    route = numbers(2, 5, 3, seed=4) > 0.4 if with_route else None
    if not can_fuse(inner, lower, source, delta, route):
        pytest.skip("no compiler")
    upstream = torch.randn(inner.shape, generator=torch.Generator().manual_seed(5))
    leaves = [inner, lower, source, *([] if delta is None else [delta])]
    plain = SiteMask(lower + (1 - lower) * source).applied(inner, delta, route)
    ours = drawn_inner(inner, lower, source, delta, route)
    torch.testing.assert_close(ours, plain)
    grads = (torch.autograd.grad((out * upstream).sum(), leaves) for out in (ours, plain))
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_gradients_that_are_transposed_in_memory_are_read_as_they_are():
    inner, lower, source = (numbers(1, 600, 64, seed=i) for i in range(3))
    if not can_fuse(inner, lower, source, None, None):
        pytest.skip("no compiler")
    upstream = torch.randn(64, 600, 1, generator=torch.Generator().manual_seed(5)).permute(2, 1, 0)
    (found,) = torch.autograd.grad(drawn_inner(inner, lower, source, None, None), inner, upstream)
    torch.testing.assert_close(found, upstream * (lower + (1 - lower) * source))


def test_a_source_that_rows_share_takes_the_formula():
    inner, lower, shared = numbers(1, 4, 6, seed=0), numbers(1, 4, 6, seed=1), numbers(1, 1, 6, seed=2)
    mask = DrawnMask(lower, shared, None, None)
    assert not can_fuse(inner, lower, shared, None, None)
    torch.testing.assert_close(mask.applied(inner, None, None), inner * mask.components)


@pytest.mark.parametrize("kind", ["paper", "leaky_hard", "normal"])
def test_both_sigmoids_equal_each_alone(kind):
    gate = (3 * numbers(2, 40, 9, seed=0).detach() - 1).requires_grad_()
    upstream = [torch.randn(gate.shape, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    alone = [sigmoid(gate) for sigmoid in sigmoid_pair(kind)]
    both = both_sigmoids(gate, kind)
    grads = []
    for pair in (both, alone):
        total = sum((value * up).sum() for value, up in zip(pair, upstream, strict=True))
        grads.append(torch.autograd.grad(total, gate)[0])  # pyright: ignore[reportArgumentType]
    for ours, expected in zip((*both, grads[0]), (*alone, grads[1]), strict=True):
        torch.testing.assert_close(ours, expected)
