"""Whether a module's sites are all there is to their weights, tried out before a decomposition begins."""

import torch
from torch import Tensor

from microtome.core.device import say
from microtome.core.errors import MicrotomeError
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Site
from microtome.targets.replacing import has_own_forward
from microtome.targets.site_choice import NotASite, listed

TOLERANCE = 1e-3  # of the output's size: rounding, also that of half precision inside


def fit_sites(target: ModuleTarget, x: Tensor) -> None:
    """``check_sites``, where layers that only a wildcard asked for are passed by, each kind in one line.

    Raises MicrotomeError as ``check_sites``, and when no site is left.
    """
    while True:
        try:
            return check_sites(target, x)
        except NotASite as error:
            present = set(target.layer_names)
            layers = [name for name in error.layers if name in present and name not in target.patterns]
            if not layers or set(layers) == present:
                raise
            target.drop(layers)
            say(f"Passed by: {listed(layers)} ({str(error).partition(';')[0]})")


def check_sites(target: ModuleTarget, x: Tensor) -> None:
    """Run ``target`` on ``x`` with each site computed from its own weight: it must be the same network.

    Raises MicrotomeError when it is not, when a site does not run, and when its weight is used elsewhere too,
    where masking its subcomponents would change nothing.
    """
    sites = target.sites()
    with torch.no_grad():
        plain = target(x)
    try:
        replaced, elsewhere = _dependence_on_weights(target, sites, x)
    except (RuntimeError, IndexError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        layouts = target.probed.layouts if target.probed is not None else {}
        same = [name for (name, _), layout in layouts.items() if layout.axis is None]
        hint = f"leave out {', '.join(same)}, given the same for all rows" if same else "leave some out"
        raise MicrotomeError(
            f"sites: the module does not run with its layers replaced ({first}); {hint}"
        ) from error
    if elsewhere:
        raise NotASite(
            f"site {elsewhere[0]!r}: the module reads its weight outside the layer as well, where its "
            "subcomponents cannot stand in; call the layer there, or leave it out of the sites",
            elsewhere,
        )
    error, size = float((replaced - plain).abs().max()), float(plain.abs().max())
    if error > TOLERANCE * size + 1e-6:  # NaN comes of the weights or the inputs, not of the sites
        own = [n for n in target.layer_names if has_own_forward(target.module.get_submodule(n))]
        shown = f", such as {own[0]}, which has a forward pass of its own" if own else ""
        raise MicrotomeError(
            f"sites: a layer computes something else than input @ weight + bias{shown}: the output changes"
            f" by {error:.2g} (it is up to {size:.2g}); leave that layer out"
        )


def _dependence_on_weights(
    target: ModuleTarget, sites: dict[str, Site], x: Tensor
) -> tuple[Tensor, list[str]]:
    """The output by the sites' own weights, and the sites whose layer's weight still has a part in it."""
    detached = {n: Site(s.name, s.weight.detach(), _detached(s.bias)) for n, s in sites.items()}
    weights = {n: target.module.get_submodule(n)._parameters.get("weight") for n in target.layer_names}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    with torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        try:
            out = target(x, lambda name, value: detached[name].apply(value))
            gradients: tuple[Tensor | None, ...] = (None,) * len(weights)
            if out.requires_grad:
                gradients = torch.autograd.grad(out.sum(), list(weights.values()), allow_unused=True)
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
    found = [name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    return out.detach(), found


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
