"""APD attributions of many inputs: one Jacobian a batch instead of a product for every output."""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_plain import attributions, reference_pass, summed
from microtome.decomposition.result import Decomposition


def attribution_scores(
    d: Decomposition, x: Float[Tensor, "K B d"], rows: int = 1024
) -> Float[Tensor, "K B C"]:
    """The configured attributions (``apd_plain.attributions``), at most ``rows`` inputs at a time."""
    config = d.config
    assert isinstance(config, APDConfig)
    one = _gradient if config.attribution_type == "gradient" else _other
    return torch.cat([one(d, part, config) for part in x.split(rows, dim=1)], dim=1).detach()


def _other(d: Decomposition, x: Tensor, config: APDConfig) -> Tensor:
    with torch.no_grad():
        return attributions(d.target, d.factors, x, config)


def _gradient(d: Decomposition, x: Tensor, config: APDConfig) -> Float[Tensor, "K B C"]:
    """``sum_o (sum_l J_l[o] . pre_l P_c)^2`` with J_l the derivative of output o by the site's output."""
    own = config.attribution_model == "decomposed"
    base = reference_pass(d.target, x, summed(d.factors) if own else None)
    names = list(base.site_outputs)
    posts = [base.site_outputs[name] for name in names]
    jacobians: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.enable_grad():
        for o in range(base.output.shape[-1]):
            gradients = torch.autograd.grad(base.output[..., o].sum(), posts, retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                jacobians[name].append(gradient)
    total: Tensor | None = None
    with torch.no_grad():
        for name in names:
            left, right = d.factors[name]
            parts = torch.einsum("kbi,kcio->kbco", base.inputs[name].detach(), left @ right)
            effect = parts @ torch.stack(jacobians[name], dim=-1)
            total = effect if total is None else total + effect
        assert total is not None
        return total.square().sum(dim=-1)
