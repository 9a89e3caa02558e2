"""SPD's losses written out one after the other, as the paper and the later code state them: easy to check.

The tests and the benchmark hold ``spd.py`` to this. Every row is computed, every pass starts from the
input, wide matrices are multiplied as they are, ``W - V U`` is built for the delta component, and the gates'
hidden layers stand in memory as a whole.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from microtome.decomposition import loss_configs as kinds
from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.causal_importance.shared_mlp import shared_mlp
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.causal_importance.vector_mlp import vector_mlp
from microtome.decomposition.gates import GateWeights, gate_values
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import stochastic_mask
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.subcomponents import Factors
from microtome.targets.network import Site, Target

Draw = Callable[[Tensor], Tensor]
# A site's masks over components, and the weight of its delta component
Mask = tuple[Tensor, Tensor | None]


def plain_spd_losses(
    target: Target,
    factors: Factors,
    functions: Mapping[str, CausalImportanceFunction],
    config: SPDConfig,
    x: Shaped[Tensor, "K B *d"],
    draw: Draw,
    fraction: float = 0.0,
) -> dict[str, Tensor]:
    """The losses of one step by label, each ``[K]``; ``draw(like [K, B, C])`` gives the uniform numbers.

    ``fraction``: the share of the training that is done.
    """
    sites = target.sites()
    wanted, seen = _recorded(target, sites, x)
    for_masks, for_loss = sigmoid_pair(config.sigmoid_type)
    lower: dict[str, Tensor] = {}
    upper: dict[str, Tensor] = {}
    for name in sites:
        inputs = seen[name]
        inner = torch.einsum("kbi,kic->kcb", inputs, factors[name][0]).mT
        gate = _gate(functions[name], inner, inputs)
        blurred = gate if config.sampling == "continuous" else 1.05 * gate - 0.05 * draw(gate)
        lower[name], upper[name] = for_masks(blurred), for_loss(gate)

    def recon(masks: dict[str, Mask]) -> Tensor:
        def site(name: str, inputs: Tensor) -> Tensor:
            if name in masks:
                return _masked(sites[name], factors[name], masks[name], inputs)
            return sites[name].apply(inputs)

        weight = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
        return reconstruction_loss(target(x, site), wanted, weight, x.shape[1], config.output_loss_type)

    def chance(name: str) -> Mask:
        source = draw(lower[name])
        if config.sampling == "binomial":
            source = (source < 0.5).to(source.dtype)
        delta = draw(lower[name][..., :1]) if config.use_delta_component else None
        return stochastic_mask(lower[name], source), delta

    def mean(layerwise: bool, mask: Callable[[str], Mask], samples: int = 1) -> Tensor:
        passes: Sequence[Sequence[str]] = [[name] for name in sites] if layerwise else [list(seen)]
        values = [recon({name: mask(name) for name in one}) for _ in range(samples) for one in passes]
        return torch.stack(values).mean(0)

    def value(loss: kinds.AnyLoss) -> Tensor:
        match loss:
            case kinds.Faithfulness():
                return _faithfulness(sites, factors)
            case kinds.ImportanceMinimality():
                return torch.stack([_minimality(u, loss, fraction) for u in upper.values()]).sum(0)
            case kinds.UnmaskedRecon():
                return recon({name: (torch.ones_like(ci), None) for name, ci in lower.items()})
            case kinds.CIMaskedRecon():
                return mean(loss.sites == "layerwise", lambda name: (lower[name], None))
            case kinds.StochasticRecon():
                return mean(loss.sites == "layerwise", chance, config.n_mask_samples)
            case _:
                raise AssertionError(type(loss))

    losses = {label: value(loss) for label, loss in config.all_losses.items()}
    total = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    for label, loss in config.all_losses.items():
        total = total + (loss.coeff or 0.0) * losses[label]
    return {"total": total, **losses}


def _recorded(target: Target, sites: dict[str, Site], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The target's output, and what reaches each site."""
    seen: dict[str, Tensor] = {}

    def record(name: str, inputs: Tensor) -> Tensor:
        seen[name] = inputs
        return sites[name].apply(inputs)

    with torch.no_grad():
        return target(x, record), seen


def _gate(function: CausalImportanceFunction, inner: Tensor, inputs: Tensor) -> Float[Tensor, "K B C"]:
    """What ``function`` gives, without the kernels."""
    if "w_in" in function.weights:
        w_in, b_in, w_out, b_out = (function.weights[name] for name in ("w_in", "b_in", "w_out", "b_out"))
        return gate_values(inner.mT, GateWeights(w_in, b_in, w_out, b_out)).mT
    run = vector_mlp if function.kind == "vector_mlp" else shared_mlp
    return run(inputs, function.layers())


def _masked(site: Site, factors: tuple[Tensor, Tensor], mask: Mask, inputs: Tensor) -> Tensor:
    v, u = factors
    components, delta = mask
    inner = torch.einsum("kbi,kic->kbc", inputs, v) * components
    out = torch.einsum("kbc,kco->kbo", inner, u)
    if delta is not None:
        left_out = site.weight - torch.einsum("kic,kco->kio", v, u)
        out = out + delta * torch.einsum("kbi,kio->kbo", inputs, left_out)
    return out if site.bias is None else out + site.bias.unsqueeze(1)


def _faithfulness(sites: dict[str, Site], factors: Factors) -> Tensor:
    errors = [
        (site.weight - torch.einsum("kic,kco->kio", *factors[name])).square().sum((1, 2))
        for name, site in sites.items()
    ]
    return torch.stack(errors).sum(0) / sum(site.weight[0].numel() for site in sites.values())


def _minimality(upper: Float[Tensor, "K B C"], loss: kinds.ImportanceMinimality, fraction: float) -> Tensor:
    powered = (upper + loss.eps).pow(loss.p_at(fraction))
    mean = powered.mean(1)
    return (mean + loss.beta * mean * torch.log2(1 + powered.sum(1))).sum(-1)
