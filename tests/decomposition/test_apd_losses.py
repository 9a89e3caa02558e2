"""Every APD loss against its equation written out with loops."""

import math

import pytest
import torch
from torch import Tensor

from microtome.decomposition.losses.act_recon import act_recon
from microtome.decomposition.losses.lp_sparsity import lp_sparsity, lp_sparsity_per_pair
from microtome.decomposition.losses.output_recon import output_recon
from microtome.decomposition.losses.param_match import param_match
from microtome.decomposition.losses.schatten import schatten, schatten_from_counts

K, B, C, M = 2, 5, 3, 2


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _factors() -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "a": (_draw(K, C, 4, M, seed=1), _draw(K, C, M, 3, seed=2)),
        "b": (_draw(K, C, 3, M, seed=3), _draw(K, C, M, 6, seed=4)),
    }


def test_param_match_sums_squares_over_all_matrices_and_divides_by_the_parameter_count() -> None:
    summed = {"a": _draw(K, 4, 3, seed=1), "b": _draw(K, 3, 2, seed=2)}
    target = {"a": _draw(K, 4, 3, seed=3), "b": _draw(K, 3, 2, seed=4)}
    loss = param_match(summed, target, 18)
    for k in range(K):
        expected = 0.0
        for name, weight in target.items():
            for i in range(weight.shape[1]):
                for j in range(weight.shape[2]):
                    expected += (summed[name][k, i, j].item() - weight[k, i, j].item()) ** 2 / 18
        assert loss[k].item() == pytest.approx(expected, rel=1e-12)


def test_output_recon_is_the_mean_over_samples_and_outputs() -> None:
    output, target = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    assert output_recon(output, target).tolist() == [(4 + 9) / 4]


def test_act_recon_divides_by_the_width_of_all_sites() -> None:
    acts = {"a": _draw(K, B, 3, seed=1), "b": _draw(K, B, 2, seed=2)}
    target = {"a": _draw(K, B, 3, seed=3), "b": _draw(K, B, 2, seed=4)}
    loss = act_recon(acts, target)
    for k in range(K):
        expected = 0.0
        for name in acts:
            for b in range(B):
                for d in range(acts[name].shape[2]):
                    expected += (acts[name][k, b, d].item() - target[name][k, b, d].item()) ** 2
        assert loss[k].item() == pytest.approx(expected / 5 / B, rel=1e-12)


@pytest.mark.parametrize("p", [0.9, 1.0, 2.0])
@pytest.mark.parametrize("binary", [True, False])
def test_schatten_sums_the_norms_of_rank_one_parts_over_active_pairs(p: float, binary: bool) -> None:
    factors = _factors()
    mask = _draw(K, B, C, seed=9).abs()
    if binary:
        mask = mask > 0.6
    loss = schatten(factors, mask, p, 30)
    for k in range(K):
        expected = 0.0
        for a, b in factors.values():
            for sample in range(B):
                for c in range(C):
                    for m in range(M):
                        size = a[k, c, :, m].square().sum().item() * b[k, c, m].square().sum().item()
                        expected += (float(mask[k, sample, c]) * size + 1e-16) ** (p / 2)
        assert loss[k].item() == pytest.approx(expected / 30 / B, rel=1e-12)


def test_schatten_of_nothing_active_is_the_constant_of_the_original() -> None:
    factors = _factors()
    loss = schatten(factors, torch.zeros(K, B, C, dtype=torch.bool), 1.0, 30)
    torch.testing.assert_close(loss, torch.full((K,), 2 * B * C * M * 1e-8 / 30 / B, dtype=torch.float64))


def test_schatten_from_counts_equals_the_masked_sum_and_its_gradient() -> None:
    a, b = _factors()["a"]
    mask = _draw(K, B, C, seed=9) > 0
    sizes = (a.square().sum(-2) * b.square().sum(-1)).requires_grad_()
    literal = ((mask.to(sizes)[..., None] * sizes[:, None] + 1e-16) ** 0.45).sum(dim=(1, 2, 3))
    (slope,) = torch.autograd.grad(literal.sum(), sizes)
    counted, by_hand = schatten_from_counts(sizes.detach(), mask.sum(1).double(), B, 0.9)
    torch.testing.assert_close(counted, literal.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(by_hand, slope, rtol=1e-10, atol=0)


def test_lp_sparsity_takes_half_the_power_of_the_mean_square() -> None:
    attributions = torch.tensor([[[4.0, 0.0], [1.0, 9.0]]], dtype=torch.float64)
    per_pair = lp_sparsity_per_pair(attributions, n_outputs=2, p=0.9)
    expected = [[(v / 2 + 1e-16) ** 0.45 for v in row] for row in ([4.0, 0.0], [1.0, 9.0])]
    torch.testing.assert_close(per_pair, torch.tensor([expected], dtype=torch.float64))
    assert lp_sparsity(per_pair).item() == pytest.approx(math.fsum(v for row in expected for v in row) / 2)
