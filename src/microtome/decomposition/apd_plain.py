"""APD written out as its equations stand, on any target. The fast paths are measured against it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.apd_components import Factors, parameter_count
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.attribution.ablation import ablation_attributions
from microtome.decomposition.attribution.activation import activation_attributions
from microtome.decomposition.attribution.gradient import gradient_attributions
from microtome.decomposition.attribution.topk import exact_counts, topk_mask
from microtome.decomposition.losses.act_recon import act_recon
from microtome.decomposition.losses.lp_sparsity import lp_sparsity, lp_sparsity_per_pair
from microtome.decomposition.losses.output_recon import output_recon
from microtome.decomposition.losses.param_match import param_match
from microtome.decomposition.losses.schatten import schatten
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP


@dataclass
class Pass:
    """One forward pass: the output and what went in and came out of every site."""

    output: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    site_outputs: dict[str, Tensor] = field(default_factory=dict)
    component_outputs: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> "Pass":
        """The same values without their graph."""
        acts = {name: value.detach() for name, value in self.site_outputs.items()}
        return Pass(self.output.detach(), self.inputs, acts, self.component_outputs)


def reference_pass(
    target: Target, x: Float[Tensor, "K B d"], weights: dict[str, Float[Tensor, "K _ _"]] | None = None
) -> Pass:
    """The network as trained, or with other weights in its sites.

    Site outputs can be differentiated by, whether or not gradients are on; the weights cannot.
    """
    record = Pass(x)
    sites = target.sites()

    def run(name: str, value: Tensor) -> Tensor:
        site = sites[name] if weights is None else replace(sites[name], weight=weights[name].detach())
        record.inputs[name] = value
        record.site_outputs[name] = site.apply(value).requires_grad_()
        return record.site_outputs[name]

    with torch.enable_grad():
        record.output = target(x, run)
    return record


def decomposed_pass(
    target: Target,
    factors: Factors,
    x: Float[Tensor, "K B d"],
    mask: Float[Tensor, "K B C"] | Bool[Tensor, "K B C"] | None = None,
) -> Pass:
    """The network with every weight replaced by its components, the masked ones only; biases as trained."""
    record = Pass(x)
    sites = target.sites()

    def run(name: str, value: Tensor) -> Tensor:
        a, b = factors[name]
        inner = torch.einsum("kbi,kcim->kbcm", value, a)
        if mask is not None:
            inner = inner * mask.unsqueeze(-1)
        components = torch.einsum("kbcm,kcmo->kbco", inner, b)
        out, bias = components.sum(dim=2), sites[name].bias
        record.inputs[name], record.component_outputs[name] = value, components
        record.site_outputs[name] = out if bias is None else out + bias.unsqueeze(1)
        return record.site_outputs[name]

    record.output = target(x, run)
    return record


def summed(factors: Factors) -> dict[str, Float[Tensor, "K _ _"]]:
    """``sum_c A_c B_c`` of every site."""
    return {name: torch.einsum("kcim,kcmo->kio", a, b) for name, (a, b) in factors.items()}


def attributions(
    target: Target, factors: Factors, x: Float[Tensor, "K B d"], config: APDConfig, full: Pass | None = None
) -> Float[Tensor, "K B C"]:
    """The configured attributions; gradient ones carry a gradient to their own site's components only."""
    if config.attribution_type == "gradient":
        decomposed = config.attribution_model == "decomposed"
        base = reference_pass(target, x, summed(factors) if decomposed else None)
        outputs = {}
        for name, value in base.inputs.items():
            weights = factors[name][0] @ factors[name][1]
            outputs[name] = torch.einsum("kbi,kcio->kbco", value.detach(), weights)
        return gradient_attributions(base.output, base.site_outputs, outputs)
    full = full or decomposed_pass(target, factors, x)
    if config.attribution_type == "activation":
        return activation_attributions(full.component_outputs)
    return ablation_attributions(
        lambda mask: decomposed_pass(target, factors, x, mask).output, full.output, config.C
    )


def plain_losses(
    target: Target,
    factors: Factors,
    x: Float[Tensor, "K B d"],
    config: APDConfig,
    topk: float | Sequence[float] | None = None,
) -> dict[str, Float[Tensor, " K"]]:
    """Every configured loss [K] with its graph, without ``total``. ``topk`` replaces the configured one."""
    topk = config.topk if topk is None else topk
    sites = target.sites()
    n_params = parameter_count(sites)
    truth = reference_pass(target, x).detached()
    full = decomposed_pass(target, factors, x)
    scores = attributions(target, factors, x, config, full)
    losses: dict[str, Tensor] = {}
    if config.param_match_coeff is not None:
        weights = {name: site.weight for name, site in sites.items()}
        losses["param_match"] = param_match(summed(factors), weights, n_params)
    if config.out_recon_coeff is not None:
        losses["out_recon"] = output_recon(full.output, truth.output)
    mask, chosen, per_pair = None, full, None
    if config.lp_sparsity_coeff is not None:
        assert config.pnorm is not None
        per_pair = lp_sparsity_per_pair(scores, truth.output.shape[-1], config.pnorm)
        losses["lp_sparsity"] = lp_sparsity(per_pair)
    if topk is not None:
        counts = exact_counts(x) if config.exact_topk else None
        mask = topk_mask(scores.detach(), topk, config.batch_topk, config.distil_from_target, counts)
        chosen = decomposed_pass(target, factors, x, mask)
    if config.topk_recon_coeff is not None:
        losses["topk_recon"] = output_recon(chosen.output, truth.output)
    if config.act_recon_coeff is not None:
        losses["act_recon"] = act_recon(
            compared_activations(target, chosen.site_outputs),
            compared_activations(target, truth.site_outputs),
        )
    if config.schatten_coeff is not None:
        assert config.schatten_pnorm is not None
        weights = mask if mask is not None else per_pair
        assert weights is not None
        losses["schatten"] = schatten(factors, weights, config.schatten_pnorm, n_params)
    return losses


def compared_activations(target: Target, site_outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``act_recon`` compares: all site outputs; of a residual MLP the rectified ``mlp_in`` ones."""
    if isinstance(target, ResidMLP):
        return {n: torch.relu(acts) for n, acts in site_outputs.items() if n.endswith("mlp_in")}
    return site_outputs
