"""The network with its components in place of its weights, site by site, differentiable."""

from collections.abc import Callable

from torch import Tensor

from microtome.decomposition.result import Decomposition
from microtome.targets.network import times

# (site, which call of it in this pass, inner activations) -> what goes on in their place
Weigh = Callable[[str, int, Tensor], Tensor]


def run_components(d: Decomposition, x: Tensor, weigh: Weigh, delta: Tensor | float = 0.0) -> Tensor:
    """The output ``[K, B, ...]`` with ``weigh``'s inner activations ``[K, B, ..., C]`` at every site.

    ``delta``: weight of ``W - V U``, what the components leave out: a number, or ``[K, B]`` of them.
    """
    calls: dict[str, int] = {}
    sites = d.network.all_sites

    def site(name: str, h: Tensor) -> Tensor:
        if name not in d.factors:
            return sites[name].apply(h)
        left, right = d.factors[name]
        v, u = left.squeeze(-1).mT, right.squeeze(2)
        inner = times(h, v)
        out = times(weigh(name, calls.get(name, 0), inner), u)
        calls[name] = calls.get(name, 0) + 1
        if isinstance(delta, Tensor) or delta:
            rest = times(h, sites[name].weight) - times(inner, u)
            weight = (
                delta.reshape(*delta.shape, *[1] * (rest.ndim - 2)) if isinstance(delta, Tensor) else delta
            )
            out = out + weight * rest
        bias = sites[name].bias
        return out if bias is None else out + bias.reshape(bias.shape[0], *[1] * (out.ndim - 2), -1)

    return d.target(x, site)
