"""KL divergence in parts against the formula."""

import pytest
import torch

from microtome.decomposition.losses import divergence


@pytest.mark.parametrize("elements", [1, 20, 1 << 17])
def test_divergence_in_parts_equals_the_formula(monkeypatch, elements):
    monkeypatch.setitem(divergence._PART, "cpu", elements)
    g = torch.Generator().manual_seed(0)
    output = (3 * torch.randn(2, 3, 4, 7, generator=g, dtype=torch.float64)).requires_grad_()
    target = 3 * torch.randn(2, 3, 4, 7, generator=g, dtype=torch.float64)
    weight = torch.rand(2, 3, 4, generator=g, dtype=torch.float64)
    p, q = target.softmax(-1), output.softmax(-1)
    plain = (p * (p.log() - q.log())).sum(-1)
    expected = torch.autograd.grad((plain * weight).sum(), output)[0]
    value = divergence.kl_divergence(output, target)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(torch.autograd.grad((value * weight).sum(), output)[0], expected)


def test_a_second_backward_pass_is_refused_and_not_wrong():
    output = torch.randn(5, 7, requires_grad=True)
    value = divergence.kl_divergence(output, torch.randn(5, 7)).sum()
    torch.autograd.grad(value, output, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, output)


def test_half_precision_logits_are_compared_in_single_precision():
    output = torch.randn(5, 70).bfloat16().requires_grad_()
    target = torch.randn(5, 70).bfloat16()
    value = divergence.kl_divergence(output, target)
    exact = divergence.kl_divergence(output.detach().double(), target.double())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(value.sum(), output)[0].dtype == torch.bfloat16
