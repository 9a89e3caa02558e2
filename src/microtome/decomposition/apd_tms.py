"""APD on Toy Models of Superposition in closed form: no autograd, no [B, C, m] tensor.

The network is ``relu(x W_0 .. W_{L-1} + b)``, linear up to its end. So the attribution of component c to
output o is ``relu'_o (x M_c)_o`` with one small matrix ``M_c = sum_l W_{<l} P_{c,l} W_{>l}`` for the whole
batch, and a row of zeros has no attributions and no reconstruction error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.apd_components import parameter_count
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_tms_torch import relu_attributions, topk_pass
from microtome.decomposition.apd_variation import Variation
from microtome.decomposition.attribution.topk import exact_counts, row_counts, topk_mask
from microtome.decomposition.kernels import apd as kernels
from microtome.decomposition.losses.output_recon import output_recon
from microtome.decomposition.losses.schatten import schatten_from_counts
from microtome.targets.tms import TMS


@dataclass
class Chain:
    """The weights W_l of the target and the components P_{c,l}, site by site.

    ``tied``: the last site is the first one's transpose and has no entry in ``own``.
    """

    weights: list[Float[Tensor, "K _ _"]]
    own: list[Float[Tensor, "K C _ _"]]
    bias: Float[Tensor, "K o"]
    tied: bool

    def parts(self) -> list[Float[Tensor, "K C _ _"]]:
        """Components of every site, the tied one's written out."""
        return [*self.own, self.own[0].transpose(-1, -2).contiguous()] if self.tied else self.own

    def summed(self) -> list[Float[Tensor, "K _ _"]]:
        """Sum of the components of every site."""
        sums = [part.sum(dim=1) for part in self.own]
        return [*sums, sums[0].transpose(-1, -2)] if self.tied else sums


def product(matrices: list[Float[Tensor, "K _ _"]]) -> Float[Tensor, "K _ _"]:
    """The matrices multiplied from left to right."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = torch.bmm(result, matrix)
    return result.contiguous()


def end_to_end_maps(
    parts: list[Float[Tensor, "K C _ _"]], weights: list[Float[Tensor, "K _ _"]]
) -> Float[Tensor, "K n o C"]:
    """``M_c = sum_l W_{<l} P_{c,l} W_{>l}``, components on the last axis."""
    total: Tensor | None = None
    for i, part in enumerate(parts):
        term = part.permute(0, 2, 3, 1)
        k, d_in, d_out, c = term.shape
        if i < len(weights) - 1:
            after = product(weights[i + 1 :]).transpose(1, 2)
            term = torch.matmul(after.unsqueeze(1), term)
            d_out = after.shape[1]
        if i > 0:
            term = torch.bmm(product(weights[:i]), term.reshape(k, d_in, d_out * c))
            term = term.view(k, -1, d_out, c)
        total = term if total is None else total.add_(term)
    assert total is not None
    return total.contiguous()


@torch.no_grad()
def tms_step(
    target: TMS,
    config: APDConfig,
    varied: Variation,
    parameters: dict[str, Tensor],
    x: Float[Tensor, "K B n"],
) -> dict[str, Float[Tensor, " K"]]:
    """The losses of ``apd_plain`` for gradient attributions and top-k; fills every ``.grad``."""
    sites = target.sites()
    tied = target.linear2 is None
    names = [name for name, site in sites.items() if site.tied_to is None]
    factors = [(parameters[f"{name}.A_T"], parameters[f"{name}.B"]) for name in names]
    own = [torch.matmul(a_t.transpose(-1, -2), b) for a_t, b in factors]
    chain = Chain([site.weight for site in sites.values()], own, target.b_final, tied)
    n_params = parameter_count(sites)
    times = [2 if tied and i == 0 else 1 for i in range(len(names))]  # a tied matrix counts at both its sites
    losses: dict[str, Tensor] = {}

    mask, truth = active_components(chain, x, config, varied.topk)
    gradients = [torch.zeros_like(part) for part in own]
    error, counts = _topk_pass(chain, x, truth, mask, config, gradients)
    whole_gradients = _match_parameters(chain, config, n_params, times, losses)
    if config.out_recon_coeff is not None:
        _reconstruct_output(chain, x, config.out_recon_coeff, whole_gradients, losses)
    if config.topk_recon_coeff is not None:
        losses["topk_recon"] = error
    for gradient, shared in zip(gradients, whole_gradients, strict=True):
        gradient += shared.unsqueeze(1)
    if config.schatten_coeff is not None:
        losses["schatten"] = torch.zeros_like(error)
    for name, (a_t, b), gradient, n_sites in zip(names, factors, gradients, times, strict=True):
        grad_a, grad_b = b @ gradient.transpose(-1, -2), a_t @ gradient
        if config.schatten_coeff is not None:
            scale = n_sites / n_params
            _add_schatten(a_t, b, counts, x.shape[1], config, varied, scale, grad_a, grad_b, losses)
        parameters[f"{name}.A_T"].grad, parameters[f"{name}.B"].grad = grad_a, grad_b
    return losses


def active_components(
    chain: Chain,
    x: Float[Tensor, "K B n"],
    config: APDConfig,
    topk: float | Sequence[float] | None,
) -> tuple[Bool[Tensor, "K B C"], Float[Tensor, "K B o"]]:
    """The top-k mask by gradient attributions, and the target's outputs (unset in rows of zeros)."""
    reference = chain.weights if config.attribution_model == "target" else chain.summed()
    whole = product(chain.weights)
    gating = whole if config.attribution_model == "target" else product(reference)
    maps = end_to_end_maps(chain.parts(), reference)
    assert topk is not None
    if not kernels.available(x):
        truth, scores = relu_attributions(x, whole, gating, chain.bias, maps)
        counts = exact_counts(x) if config.exact_topk else None
        return topk_mask(scores, topk, config.batch_topk, config.distil_from_target, counts), truth
    truth, scores = kernels.relu_attributions(x.contiguous(), whole, gating, chain.bias, maps)
    return _select(scores, x, config, topk), truth


def _select(
    scores: Float[Tensor, "K B C"], x: Tensor, config: APDConfig, topk: float | Sequence[float]
) -> Bool[Tensor, "K B C"]:
    ranked = scores[..., :-1].contiguous() if config.distil_from_target else scores
    k, b, c = ranked.shape
    counts = exact_counts(x) if config.exact_topk else row_counts(topk, k, b, config.batch_topk)
    mask = kernels.select_largest(ranked.view(len(counts), -1), counts).view(k, b, c)
    return torch.nn.functional.pad(mask, (0, 1), value=True) if config.distil_from_target else mask


def _topk_pass(
    chain: Chain,
    x: Float[Tensor, "K B n"],
    truth: Float[Tensor, "K B o"],
    mask: Bool[Tensor, "K B C"],
    config: APDConfig,
    gradients: list[Float[Tensor, "K C _ _"]],
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K C"]]:
    """Mean squared error and samples per component; adds the weighted gradients by every P."""
    per_mean = 1.0 / (x.shape[1] * truth.shape[2])
    weight = per_mean * (config.topk_recon_coeff or 0.0)
    parts = chain.parts()
    if not kernels.available(x):
        error, counts = topk_pass(x, truth, chain.bias, mask, chain.own, chain.tied, weight, gradients)
        return error * per_mean, counts
    if chain.tied:
        last, last_gradient = chain.own[0], gradients[0]
    else:
        last = parts[-1].transpose(-1, -2).contiguous()
        last_gradient = torch.zeros_like(last)
    error, counts = kernels.topk_pass(
        x.contiguous(), truth, chain.bias, mask, parts, last, 2.0 * weight, gradients, last_gradient
    )
    if not chain.tied:
        gradients[-1] += last_gradient.transpose(-1, -2)
    return error * per_mean, counts


def _match_parameters(
    chain: Chain, config: APDConfig, n_params: int, times: list[int], losses: dict[str, Tensor]
) -> list[Float[Tensor, "K _ _"]]:
    """Adds ``param_match``; returns its gradient by the sum of each own site's components."""
    if config.param_match_coeff is None:
        return [torch.zeros_like(weight) for weight in chain.weights[: len(chain.own)]]
    gradients, total = [], chain.bias.new_zeros(len(chain.bias))
    for part, weight, n_sites in zip(chain.own, chain.weights, times, strict=False):
        difference = part.sum(dim=1) - weight
        total = total + n_sites * difference.square().sum(dim=(1, 2))
        gradients.append(difference * (2.0 * n_sites * config.param_match_coeff / n_params))
    losses["param_match"] = total / n_params
    return gradients


def _reconstruct_output(
    chain: Chain,
    x: Float[Tensor, "K B n"],
    coefficient: float,
    gradients: list[Float[Tensor, "K _ _"]],
    losses: dict[str, Tensor],
) -> None:
    """Adds ``out_recon`` and its gradient by the sum of each own site's components."""
    bias = chain.bias.unsqueeze(1)
    truth = torch.relu(x @ product(chain.weights) + bias)
    with torch.enable_grad():
        sums = [part.sum(dim=1).requires_grad_() for part in chain.own]
        every = [*sums, sums[0].transpose(1, 2)] if chain.tied else sums
        loss = output_recon(torch.relu(x @ product(every) + bias), truth)
        new = torch.autograd.grad(loss.sum() * coefficient, sums)
    losses["out_recon"] = loss.detach()
    for gradient, extra in zip(gradients, new, strict=True):
        gradient += extra


def _add_schatten(
    a_t: Float[Tensor, "K C m d_in"],
    b: Float[Tensor, "K C m d_out"],
    counts: Float[Tensor, "K C"],
    batch_size: int,
    config: APDConfig,
    varied: Variation,
    scale: float,
    grad_a: Tensor,
    grad_b: Tensor,
    losses: dict[str, Tensor],
) -> None:
    """Adds one site's ``schatten`` times ``scale`` (sites over n_params) and its gradients by A and B."""
    assert config.schatten_pnorm is not None
    size_a, size_b = a_t.square().sum(dim=-1), b.square().sum(dim=-1)
    loss, slope = schatten_from_counts(size_a * size_b, counts, batch_size, config.schatten_pnorm)
    losses["schatten"] += loss * (scale / batch_size)
    slope *= varied.schatten * (2.0 * scale / batch_size)
    grad_a.addcmul_(a_t, (slope * size_b).unsqueeze(-1))
    grad_b.addcmul_(b, (slope * size_a).unsqueeze(-1))
