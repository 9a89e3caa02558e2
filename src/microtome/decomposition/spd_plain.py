"""SPD's losses written out one after the other, as the paper states them: slow, and easy to check.

The tests and the benchmark hold ``spd.py`` to this. Every row is computed, every pass starts from the
input, wide matrices are multiplied as they are, and the gates' hidden layers stand in memory as a whole.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.gates import gate_values, lower_leaky, upper_leaky
from microtome.decomposition.losses.faithfulness import faithfulness_loss
from microtome.decomposition.losses.importance_minimality import importance_minimality_loss
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import stochastic_mask
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.subcomponents import Subcomponents
from microtome.targets.network import Target


def plain_spd_losses(
    target: Target,
    subcomponents: Subcomponents,
    config: SPDConfig,
    x: Float[Tensor, "K B *d"],
    draw: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The losses of one step, each ``[K]``; ``draw(ci [K, B, C])`` gives the masks' uniform numbers."""
    sites = target.sites()
    factors = subcomponents.all_factors()
    seen: dict[str, Tensor] = {}

    def record(name: str, inputs: Tensor) -> Tensor:
        seen[name] = inputs
        return sites[name].apply(inputs)

    with torch.no_grad():
        wanted = target(x, record)
    lower: dict[str, Tensor] = {}
    importance = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    for name, inputs in seen.items():
        inner = torch.einsum("kbi,kic->kcb", inputs, factors[name][0])
        gate = gate_values(inner, subcomponents.gates[name])
        lower[name] = lower_leaky(gate).transpose(1, 2)
        importance = importance + importance_minimality_loss(upper_leaky(gate), config.pnorm)
    weight = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)

    def recon(masks: dict[str, Tensor]) -> Tensor:
        def site(name: str, inputs: Tensor) -> Tensor:
            if name not in masks:
                return sites[name].apply(inputs)
            v, u = factors[name]
            inner = torch.einsum("kbi,kic->kbc", inputs, v) * masks[name]
            out = torch.einsum("kbc,kco->kbo", inner, u)
            bias = sites[name].bias
            return out if bias is None else out + bias.unsqueeze(1)

        return reconstruction_loss(target(x, site), wanted, weight, x.shape[1], config.output_loss_type)

    def chance(name: str) -> Tensor:
        return stochastic_mask(lower[name], draw(lower[name]))

    losses: dict[str, Tensor] = {}
    if config.faithfulness_coeff is not None:
        losses["faithfulness"] = faithfulness_loss(sites, factors)
    if config.stochastic_recon_coeff is not None:
        draws = [recon({name: chance(name) for name in seen}) for _ in range(config.n_mask_samples)]
        losses["stochastic_recon"] = torch.stack(draws).mean(0)
    if config.recon_coeff is not None:
        losses["recon"] = recon(lower)
    if config.out_recon_coeff is not None:
        losses["out_recon"] = recon({name: torch.ones_like(ci) for name, ci in lower.items()})
    if config.recon_layerwise_coeff is not None:
        losses["recon_layerwise"] = torch.stack([recon({name: lower[name]}) for name in sites]).mean(0)
    if config.stochastic_recon_layerwise_coeff is not None:
        draws = [recon({n: chance(n)}) for _ in range(config.n_mask_samples) for n in sites]
        losses["stochastic_recon_layerwise"] = torch.stack(draws).mean(0)
    losses["importance_minimality"] = importance
    total = torch.zeros_like(importance)
    for name, value in losses.items():
        total = total + getattr(config, f"{name}_coeff") * value
    return {"total": total, **losses}
