"""Which layers a network has, in the order they run, and which of them correspond between networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.comparison.arms import MatchedLayer
from microtome.comparison.listening import is_layer, listening
from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value
from microtome.targets.image_network import ImageNetwork

# What a pair of layers is worth: more for the same shape than for the same kind, nothing for another kind.
SAME_SHAPE, SAME_CHANNELS, SAME_KIND = 4.0, 2.0, 1.0
DEPTH = 0.5  # lost by a pair at opposite ends of the networks


@dataclass(frozen=True)
class TracedLayer:
    """A layer as it ran: ``shape`` of its output without the batch, ``after`` its nonlinearity ("" for none).

    ``after`` is the module's name, or the function's in brackets (``(relu)``) where it is no module.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    after: str = ""


def trace_layers(
    network: ImageNetwork, x: Float[Tensor, "B C H W"], also: Sequence[str] = ()
) -> list[TracedLayer]:
    """Convolutions and linear layers (and the modules named in ``also``) in execution order.

    Layers that do not run are left out; of those that run several times the first time counts.
    """
    module = network.module
    names = [name for name, part in module.named_modules() if is_layer(part) or name in also]
    names += [name for name in also if name not in names]  # unknown: told by its nearest name
    shapes: dict[str, tuple[int, ...]] = {}
    after: dict[str, str] = {}
    running: list[str] = []

    def layer(name: str, output: Tensor) -> None:
        shapes.setdefault(name, tuple(output.shape[1:]))

    last: list[str] = []

    def nonlinearity(name: str, _output: Tensor) -> None:
        last[:] = [name]

    def function(called: str, _output: Tensor) -> None:
        after.setdefault(last[0], running[-1] if running else f"({called})")

    def leaves() -> list[tuple[str, nn.Module]]:
        return [(n, m) for n, m in module.named_modules() if n and next(m.children(), None) is None]

    handles = []
    for name, part in leaves():
        handles.append(part.register_forward_pre_hook(partial(_note, running, name)))
        handles.append(part.register_forward_hook(lambda _m, _a, _o: running.clear()))
    try:
        with torch.no_grad(), listening(module, names, layer, nonlinearity, function):
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        raise MicrotomeError(f"{network.name}: no convolution or linear layer runs; name modules with layers")
    return [
        TracedLayer(name, type(module.get_submodule(name)).__name__, shape, after.get(name, ""))
        for name, shape in shapes.items()
    ]


def _note(running: list[str], name: str, _module: nn.Module, _args: object) -> None:
    running.append(name)


@dataclass(frozen=True)
class Matching:
    """Layers that correspond, and in words what could not be matched or is matched only by depth."""

    layers: tuple[MatchedLayer, ...]
    remarks: tuple[str, ...] = ()


def match_layers(
    traces: Mapping[str, Sequence[TracedLayer]], layer_map: Mapping[str, str] | None = None
) -> Matching:
    """Layers of all arms matched by execution order and shape.

    Each arm is aligned with the first: order is kept, layers of another kind never go together, and the sum
    of what pairs share (shape, channels, kind) is as large as can be, ties by relative depth. ``layer_map``
    maps names in the first arm to names in the others and beats everything. Raises ``MicrotomeError`` for
    names that are not there and when nothing corresponds.
    """
    arms = list(traces)
    first = traces[arms[0]]
    remarks: list[str] = []
    found: dict[str, dict[str, str]] = {layer.name: {arms[0]: layer.name} for layer in first}
    _check_map(traces, layer_map or {})
    for arm in arms[1:]:
        other = traces[arm]
        pairs = _forced(first, other, layer_map or {})
        taken = set(pairs.values())
        left = [layer for layer in first if layer.name not in pairs]
        right = [layer for layer in other if layer.name not in taken]
        pairs |= _aligned(left, right)
        for name, there in pairs.items():
            found[name][arm] = there
        remarks += _remarks(arms[0], first, arm, other, pairs)
    layers = tuple(MatchedLayer(name, names) for name, names in found.items() if len(names) == len(arms))
    if not layers:
        raise MicrotomeError(
            f"no layer of {arms[0]} corresponds to one of every other network; name pairs"
            " with --layer-map a=b"
        )
    return Matching(layers, tuple(remarks))


def _check_map(traces: Mapping[str, Sequence[TracedLayer]], layer_map: Mapping[str, str]) -> None:
    arms = list(traces)
    here = [layer.name for layer in traces[arms[0]]]
    there = [layer.name for arm in arms[1:] for layer in traces[arm]]
    for name, other in layer_map.items():
        for each, known, where in ((name, here, arms[0]), (other, there, " or ".join(arms[1:]))):
            if each not in known:
                near = nearest(each, known)
                mend = f"did you mean {near}?" if near else f"it has {', '.join(known)}"
                raise bad_value("layer-map", each, f"{where} has no such layer", mend)


def _forced(
    first: Sequence[TracedLayer], other: Sequence[TracedLayer], layer_map: Mapping[str, str]
) -> dict[str, str]:
    there = {layer.name for layer in other}
    return {layer.name: layer_map[layer.name] for layer in first if layer_map.get(layer.name) in there}


def _worth(a: TracedLayer, b: TracedLayer) -> float:
    convolution = [len(layer.shape) == 3 for layer in (a, b)]
    if a.kind != b.kind and convolution[0] != convolution[1]:
        return 0.0
    if a.shape == b.shape:
        return SAME_SHAPE
    channel = 0 if convolution[0] else -1
    return SAME_CHANNELS if a.shape[channel] == b.shape[channel] else SAME_KIND


def _aligned(a: Sequence[TracedLayer], b: Sequence[TracedLayer]) -> dict[str, str]:
    """The order-keeping pairs of largest total worth (Needleman and Wunsch, gaps are free)."""
    best = np.zeros((len(a) + 1, len(b) + 1))
    gain = np.zeros((len(a), len(b)))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            worth = _worth(one, other)
            apart = abs((i + 0.5) / len(a) - (j + 0.5) / len(b))
            gain[i, j] = worth - DEPTH * apart if worth else -1.0
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + gain[i, j])
    pairs: dict[str, str] = {}
    i, j = len(a), len(b)
    while i and j:
        if gain[i - 1, j - 1] > 0 and best[i, j] == best[i - 1, j - 1] + gain[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs[a[i].name] = b[j].name
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return dict(reversed(pairs.items()))


def _remarks(
    arm: str, a: Sequence[TracedLayer], other: str, b: Sequence[TracedLayer], pairs: Mapping[str, str]
) -> list[str]:
    remarks = []
    if len(a) != len(b):
        remarks.append(
            f"{arm} has {len(a)} layers and {other} {len(b)}: layers are matched by shape and relative depth"
        )
    taken = set(pairs.values())
    for who, layers, matched in ((arm, a, set(pairs)), (other, b, taken)):
        alone = [layer.name for layer in layers if layer.name not in matched]
        if alone:
            remarks.append(f"left out, without a counterpart: {', '.join(alone)} of {who}")
    shape = {layer.name: layer.shape for layer in b}
    unlike = [
        f"{layer.name} {list(layer.shape)} with {pairs[layer.name]} {list(shape[pairs[layer.name]])}"
        for layer in a
        if layer.name in pairs and layer.shape != shape[pairs[layer.name]]
    ]
    if unlike:
        remarks.append(f"matched in spite of different shapes: {'; '.join(unlike)}")
    return remarks
