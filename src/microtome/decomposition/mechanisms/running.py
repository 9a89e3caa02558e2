"""The network with its components in place of its weights, each a node that gradients can be read at."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from microtome.decomposition.result import Decomposition
from microtome.targets.network import times


@dataclass
class Nodes:
    """One pass: what every call of every site computes, and what is handed on in its place.

    ``read[site]``: inner activations ``[1, B, ..., C]``, a function of the nodes before them.
    ``passed[site]``: what the site goes on with, which later nodes are functions of. An entry a call.
    """

    x: Tensor
    read: dict[str, list[Tensor]] = field(default_factory=dict)
    passed: dict[str, list[Tensor]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """The sites as they ran, by their first call."""
    words: list[Tensor] = field(default_factory=list)
    """What the token embedding gives, where it is no site itself."""
    output: Tensor | None = None


def run_nodes(
    d: Decomposition,
    x: Tensor,
    masks: Mapping[str, Sequence[Tensor]] | None,
    delta: float,
    through: bool,
    held: Mapping[str, Sequence[Tensor]] | None = None,
) -> Nodes:
    """Run the network on its components ``[1, B, ...]``, weighed by ``masks`` (an entry a call;
    None: all on).

    ``delta``: weight of ``W - V U``. ``through``: gradients pass through nodes to those before them;
    otherwise every node is a leaf, and gradients are those of direct effects. ``held``: values to hand on.
    """
    nodes = Nodes(x)
    if x.is_floating_point():
        nodes.x = x = x.detach().requires_grad_()
    all_sites = d.masked_network.all_sites

    def site(name: str, h: Tensor) -> Tensor:
        if name not in d.joined:
            return all_sites[name].apply(h)
        v, u = d.joined[name]
        inner = times(h, v)
        call = len(nodes.read.setdefault(name, []))
        if not call:
            nodes.order.append(name)
        nodes.read[name].append(inner)
        value = inner if masks is None else inner * masks[name][call]
        if held is not None:
            value = held[name][call]
        if not through or not value.requires_grad:
            value = value.detach().requires_grad_()
        nodes.passed.setdefault(name, []).append(value)
        out = times(value, u)
        if delta:
            out = out + delta * (times(h, all_sites[name].weight) - times(inner, u))
        bias = all_sites[name].bias
        return out if bias is None else out + bias.reshape(bias.shape[0], *[1] * (out.ndim - 2), -1)

    # Plain attention: its fused kernels cannot be differentiated for many targets at once.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _whole(d), _words(d, nodes):
        nodes.output = d.target(x, site)
    return nodes


@contextmanager
def _whole(d: Decomposition) -> Any:
    """Nothing is computed again in the backward pass, which would make nodes anew."""
    target: Any = d.target
    before = getattr(target, "checkpointing", False)
    if before:
        target.checkpointing = False
    try:
        yield
    finally:
        if before:
            target.checkpointing = True


@contextmanager
def _words(d: Decomposition, nodes: Nodes) -> Any:
    """Make what the token embedding gives a node."""
    module = getattr(d.target, "module", None)
    find: Callable[[], Any] | None = getattr(module, "get_input_embeddings", None)
    layer = find() if find is not None else None
    if layer is None or any(d.masked_network.all_sites[s].kind == "embedding" for s in d.joined):
        yield
        return

    def leaf(_: Any, __: Any, out: Tensor) -> Tensor:
        nodes.words.append(out.detach().requires_grad_())
        return nodes.words[-1]

    hook = layer.register_forward_hook(leaf)
    try:
        yield
    finally:
        hook.remove()
