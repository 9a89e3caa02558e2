"""Which units of a network can be renumbered without changing what it computes, found by running it once.

Every axis of every parameter starts with numbering of its own. Each operation of the forward pass then says
which axes have to be numbered alike: a convolution ties its input's channels to the second axis of its weight,
a norm its scale and shift to the channels, a sum the channels of both terms, flattening turns channels into
runs of columns. The class axis and the pixels cannot be renumbered, nor can whatever an operation mixes that
is not known here. (Weight matching: Ainsworth et al. 2023, arXiv 2209.04836, where the ties are written by hand.)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUTPUT = "it is the network's output"


@dataclass
class _Numbering:
    """The numbering of some units. ``parent``: it is really (part of) another one."""

    size: int
    fixed: str = ""
    parent: "_Axis | None" = None


@dataclass(frozen=True)
class _Axis:
    """An axis whose index is ``(o * size + unit) * inner + i``."""

    numbering: _Numbering
    outer: int = 1
    inner: int = 1

    @property
    def bare(self) -> bool:
        return self.outer == 1 and self.inner == 1


Label = _Axis | None
Labels = tuple[Label, ...]


def _resolved(axis: _Axis) -> _Axis:
    while axis.numbering.parent is not None:
        up = axis.numbering.parent
        axis = _Axis(up.numbering, axis.outer * up.outer, up.inner * axis.inner)
    return axis


def _fix(axis: Label, reason: str) -> None:
    if axis is not None:
        numbering = _resolved(axis).numbering
        numbering.fixed = numbering.fixed or reason


def _tie(a: Label, b: Label, reason: str) -> None:
    """Both axes are numbered alike from now on."""
    if a is None or b is None:
        _fix(a, reason)
        _fix(b, reason)
        return
    a, b = _resolved(a), _resolved(b)
    if a.numbering is b.numbering:
        if (a.outer, a.inner) != (b.outer, b.inner):
            _fix(a, reason)
        return
    same = (a.outer, a.inner, a.numbering.size) == (b.outer, b.inner, b.numbering.size)
    if not a.bare and b.bare:
        a, b = b, a
    if not (same or a.bare):
        _fix(a, reason)
        _fix(b, reason)
        return
    # Same structure, or a bare axis that turns out to be a structured one.
    a.numbering.parent = _Axis(b.numbering) if same else b
    if a.numbering.fixed:
        _fix(b, a.numbering.fixed)


@dataclass(frozen=True)
class UnitAxis:
    """An axis of a parameter that holds units of ``group``: index ``(o * size + unit) * inner + i``."""

    group: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Symmetry:
    """What can be renumbered. ``sizes``: units of every group, in the order in which the network makes them.

    ``axes`` names every parameter and buffer; None is an axis that stays as it is. ``fixed`` says why, for
    axes of parameters that might have been expected to be free: (parameter, axis) -> reason.
    """

    sizes: tuple[int, ...]
    axes: Mapping[str, tuple[UnitAxis | None, ...]]
    fixed: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def outputs_that_stay(self) -> dict[str, str]:
        """Weights whose outputs cannot be renumbered though they are not the network's, and why."""
        return {name: reason for (name, axis), reason in self.fixed.items() if axis == 0 and reason != OUTPUT}


@torch.no_grad()
def find_symmetry(module: nn.Module, x: Tensor) -> Symmetry:
    """The groups of units that ``module`` has, found by one forward pass of the inputs ``x [n, ...]``."""
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    tape = _Tape(tensors)
    with tape:
        out = module(x)
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor):
            for label in tape.labels(leaf):
                _fix(label, OUTPUT)
    return _gathered(tensors, tape)


def _gathered(tensors: Mapping[str, Tensor], tape: "_Tape") -> Symmetry:
    found = {name: [a and _resolved(a) for a in tape.labels(t)] for name, t in tensors.items()}
    uses: dict[int, int] = {}
    counted: set[int] = set()
    for name, axes in found.items():
        if id(tensors[name]) not in counted:  # a shared tensor counts once
            counted.add(id(tensors[name]))
            for axis in axes:
                if axis is not None:
                    uses[id(axis.numbering)] = uses.get(id(axis.numbering), 0) + 1
    groups: dict[int, int] = {}
    sizes: list[int] = []
    fixed: dict[tuple[str, int], str] = {}
    result: dict[str, tuple[UnitAxis | None, ...]] = {}
    ordered = sorted(found, key=lambda name: tape.first_use.get(id(tensors[name]), len(tape.first_use)))
    for name in ordered:
        labels: list[UnitAxis | None] = []
        for i, axis in enumerate(found[name]):
            if axis is None or axis.numbering.fixed or uses[id(axis.numbering)] < 2:
                labels.append(None)
                if axis is not None and axis.numbering.fixed and tensors[name].ndim > 1:
                    fixed[name, i] = axis.numbering.fixed
                continue
            key = id(axis.numbering)
            if key not in groups:
                groups[key] = len(sizes)
                sizes.append(axis.numbering.size)
            labels.append(UnitAxis(groups[key], axis.outer, axis.inner))
        result[name] = tuple(labels)
    # Numbers follow the order in which outputs are made: an axis 0 comes before the axis 1 that reads it.
    return Symmetry(tuple(sizes), {name: result[name] for name in tensors}, fixed)


class _Tape(TorchDispatchMode):
    """Watches the operations and keeps what is known of the axes of every tensor."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._labels: dict[int, Labels] = {}
        self._alive: list[Tensor] = list(named.values())  # so that no id is used twice
        self.first_use: dict[int, int] = {}
        for tensor in named.values():
            if id(tensor) not in self._labels:
                self._labels[id(tensor)] = tuple(
                    _Axis(_Numbering(n)) if n > 1 else None for n in tensor.shape
                )

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and wrapping against it would import the whole compiler."""
        return False

    def labels(self, tensor: Tensor) -> Labels:
        return self._labels.get(id(tensor), (None,) * tensor.ndim)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        for tensor in given:
            self.first_use.setdefault(id(tensor), len(self.first_use))
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self._alive += [*given, *results]
        if not results:
            return out
        name = func._schema.name.removeprefix("aten::")
        rule = RULES.get(name.rstrip("_") if name.endswith("_") else name)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = _pointwise
        found = rule(self, name, args, kwargs or {}, results) if rule is not None else None
        if found is None:
            reason = f"{name} mixes or orders its units"
            for tensor in given:
                for label in self.labels(tensor):
                    _fix(label, reason)
            found = [(None,) * t.ndim for t in results]
        for tensor, labels in zip(results, found, strict=False):
            if len(labels) == tensor.ndim:
                self._labels[id(tensor)] = labels
        return out


# A rule gives the labels of the results, or None: the operation is not understood for these arguments.
Rule = Callable[[_Tape, str, tuple[Any, ...], dict[str, Any], Sequence[Tensor]], list[Labels] | None]


def _argument(args: tuple[Any, ...], place: int, default: Any = None) -> Any:
    return args[place] if len(args) > place else default


def _pointwise(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    """Axes are aligned from the last; an axis of one entry is spread over the other's."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    out: list[Label] = []
    for back in range(results[0].ndim, 0, -1):
        axes = [(tape.labels(t)[t.ndim - back], t.shape[t.ndim - back]) for t in tensors if t.ndim >= back]
        wide = [label for label, size in axes if size > 1]
        for label in wide[1:]:
            _tie(wide[0], label, f"{name} joins it with a fixed axis")
        out.append(wide[0] if wide else None)
    return [tuple(out)] * len(results)


def _same(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    return [tape.labels(args[0])]


def _convolution(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels] | None:
    x, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    labels, w = tape.labels(x), tape.labels(weight)
    if labels[0] is not None or any(label is not None for label in labels[2:]):
        return None
    into, out = (w[0], w[1]) if transposed else (w[1], w[0])
    if groups != 1:
        # One filter a channel keeps the channels' numbers; other groups would have to stay together.
        if transposed or not (groups == x.shape[1] == weight.shape[0]):
            return None
        into = out
    if x.shape[1] > 1:
        _tie(labels[1], into, f"{name} reads a fixed axis")
    if bias is not None:
        _tie(tape.labels(bias)[0], out, name)
    for label in w[2:]:
        _fix(label, "it is a place in a filter")
    return [(None, out, *(None,) * (results[0].ndim - 2))]


def _matrix_product(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    """``mm, bmm(x, y)`` and ``addmm, baddbmm(bias, x, y)``."""
    bias, (x, y) = (args[0], args[1:3]) if name in ("addmm", "baddbmm") else (None, args[:2])
    a, b = tape.labels(x), tape.labels(y)
    _tie(a[-1], b[-2], f"{name} reads a fixed axis")
    if len(a) == 3:
        _tie(a[0], b[0], name)
    out = (*a[:-1], b[-1])
    if bias is not None:
        for label, other, size in zip(
            reversed(tape.labels(bias)), reversed(out), reversed(bias.shape), strict=False
        ):
            if size > 1:
                _tie(label, other, name)
    return [out]


def _linear(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    x, weight, bias = args[0], args[1], _argument(args, 2)
    _tie(tape.labels(x)[-1], tape.labels(weight)[1], f"{name} reads a fixed axis")
    if bias is not None:
        _tie(tape.labels(bias)[0], tape.labels(weight)[0], name)
    return [(*tape.labels(x)[:-1], tape.labels(weight)[0])]


def _batch_norm(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = tape.labels(args[0])
    for tensor in args[1:]:
        if isinstance(tensor, Tensor) and tensor.ndim == 1 and len(tensor) > 1:
            _tie(labels[1], tape.labels(tensor)[0], name)
    return [labels]


def _layer_norm(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = tape.labels(args[0])
    for tensor in args[2:4]:
        if isinstance(tensor, Tensor):
            for label, own, size in zip(
                labels[-tensor.ndim :], tape.labels(tensor), tensor.shape, strict=True
            ):
                if size > 1:
                    _tie(label, own, name)
    return [labels]


def _group_norm(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels] | None:
    if args[6] not in (1, args[4]):  # one group, or one a channel; others would have to stay together
        return None
    return _batch_norm(tape, name, args[:3], kwargs, results)


def _pool(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = tape.labels(args[0])
    n = 1 if name.endswith("1d") else 3 if name.endswith("3d") or "3d" in name else 2
    for label in labels[-n:]:
        _fix(label, f"{name} takes it for a place")
    return [(*labels[:-n], *(None,) * n)] * len(results)


def _reduction(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels, dims = tape.labels(args[0]), _argument(args, 1)
    keep = bool(_argument(args, 2, kwargs.get("keepdim", False)))
    gone = range(len(labels)) if dims in (None, []) else [d % len(labels) for d in _list(dims)]
    kept = [None if d in gone else label for d, label in enumerate(labels) if keep or d not in gone]
    return [tuple(kept)]


def _list(dims: Any) -> Iterable[int]:
    return [dims] if isinstance(dims, int) else dims


def _permutation(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = list(tape.labels(args[0]))
    if name == "permute":
        return [tuple(labels[d] for d in args[1])]
    if len(labels) > 1:
        i, j = (0, 1) if name == "t" else args[1:3]
        labels[i], labels[j] = labels[j], labels[i]
    return [tuple(labels)]


def _view(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    """Axes that are merged become one with runs; one that is split must fall apart between its units."""
    old, new, labels = args[0].shape, results[0].shape, tape.labels(args[0])
    out: list[Label] = [None] * len(new)
    for before, after in _blocks(old, new):
        for d in before:
            label = labels[d]
            if label is None:
                continue
            label = _resolved(label)
            outer = label.outer * prod(old[before.start : d])
            inner = label.inner * prod(old[d + 1 : before.stop])
            for e in after:
                left, right = prod(new[after.start : e]), prod(new[e + 1 : after.stop])
                fits = outer % left == 0 and inner % right == 0
                if (
                    fits
                    and out[e] is None
                    and (outer // left) * label.numbering.size * (inner // right) == new[e]
                ):
                    out[e] = _Axis(label.numbering, outer // left, inner // right)
                    break
            else:
                _fix(label, "reshaping splits it or merges it with others")
    return [tuple(out)]


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Runs of old and new axes that hold the same entries, as short as they can be."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start, other = i, j
        a, i = (old[i], i + 1) if i < len(old) else (1, i)
        b, j = (new[j], j + 1) if j < len(new) else (1, j)
        while a != b:
            if (a < b and i < len(old)) or j >= len(new):
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        blocks.append((range(start, i), range(other, j)))
    return blocks


def _expand(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = tape.labels(args[0])
    return [(*(None,) * (results[0].ndim - len(labels)), *labels)]


def _cat(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    along = _argument(args, 1, 0) % results[0].ndim
    out = list(tape.labels(args[0][0]))
    for tensor in args[0]:
        for d, label in enumerate(tape.labels(tensor)):
            if d == along:
                _fix(label, "it is put together with others")
            elif tensor is not args[0][0] and tensor.shape[d] > 1:
                _tie(out[d], label, name)
    out[along] = None
    return [tuple(out)]


def _part(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    """``select(x, dim, index)``, ``slice(x, dim, ...)``, ``split(x, size, dim)``, ``unbind(x, dim)``."""
    x = args[0]
    place = _argument(args, 2, 0) if name.startswith("split") else _argument(args, 1, 0)
    along = place % x.ndim
    labels = list(tape.labels(x))
    if results[0].shape != x.shape:
        _fix(labels[along], f"{name} takes part of it")
        labels[along] = None
    if name in ("select", "unbind"):
        del labels[along]
    return [tuple(labels)] * len(results)


def _pad(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    labels = list(tape.labels(args[0]))
    for d, (before, after) in enumerate(zip(args[0].shape, results[0].shape, strict=True)):
        if before != after:
            _fix(labels[d], "it is padded")
            labels[d] = None
    return [tuple(labels)]


def _embedding(
    tape: _Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> list[Labels]:
    rows, width = tape.labels(args[0])
    _fix(rows, "it is chosen by the input")
    return [(*(None,) * args[1].ndim, width)]


def _rules(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_rules(_same, "_softmax _log_softmax clone detach _to_copy alias contiguous native_dropout dropout"),
    **_rules(_pointwise, "relu relu6 hardtanh gelu silu mish elu leaky_relu sigmoid tanh copy lift_fresh"),
    **_rules(_convolution, "convolution"),
    **_rules(_matrix_product, "mm bmm addmm baddbmm"),
    **_rules(_linear, "linear"),
    **_rules(_batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"),
    **_rules(_batch_norm, "cudnn_batch_norm _batch_norm_no_update _batch_norm_with_update batch_norm"),
    **_rules(_layer_norm, "native_layer_norm layer_norm"),
    **_rules(_group_norm, "native_group_norm"),
    **_rules(_pool, "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d"),
    **_rules(_pool, "max_pool2d avg_pool1d _adaptive_avg_pool3d avg_pool3d max_pool3d_with_indices"),
    **_rules(_pool, "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d mkldnn_max_pool2d"),
    **_rules(_reduction, "mean sum amax amin var std"),
    **_rules(_permutation, "permute transpose t"),
    **_rules(_view, "view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten"),
    **_rules(_expand, "expand"),
    **_rules(_cat, "cat"),
    **_rules(_part, "select slice split split_with_sizes unbind"),
    **_rules(_pad, "constant_pad_nd"),
    **_rules(_embedding, "embedding"),
}
