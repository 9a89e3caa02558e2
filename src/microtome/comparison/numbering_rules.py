"""What every operation of a forward pass says about the numbering of its arguments' and results' axes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from microtome.comparison.numbering import Axis, Label, Labels, fix, resolved, tie


@dataclass(frozen=True)
class Call:
    """One operation that ran. ``labels`` tells what is known of a tensor's axes."""

    labels: Callable[[Tensor], Labels]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Sequence[Tensor]


# A rule gives the labels of the call.results, or None: the operation is not understood for these arguments.
Rule = Callable[[Call], list[Labels] | None]


def _argument(args: tuple[Any, ...], place: int, default: Any = None) -> Any:
    return args[place] if len(args) > place else default


def pointwise(call: Call) -> list[Labels]:
    """Axes are aligned from the last; an axis of one entry is spread over the other's."""
    tensors = [t for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    out: list[Label] = []
    for back in range(call.results[0].ndim, 0, -1):
        axes = [(call.labels(t)[t.ndim - back], t.shape[t.ndim - back]) for t in tensors if t.ndim >= back]
        wide = [label for label, size in axes if size > 1]
        for label in wide[1:]:
            tie(wide[0], label, f"{call.name} joins it with a fixed axis")
        out.append(wide[0] if wide else None)
    return [tuple(out)] * len(call.results)


def _same(call: Call) -> list[Labels]:
    return [call.labels(call.args[0])]


def _convolution(call: Call) -> list[Labels] | None:
    x, weight, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    labels, w = call.labels(x), call.labels(weight)
    if labels[0] is not None or any(label is not None for label in labels[2:]):
        return None
    into, out = (w[0], w[1]) if transposed else (w[1], w[0])
    if groups != 1:
        # One filter a channel keeps the channels' numbers; other groups would have to stay together.
        if transposed or not (groups == x.shape[1] == weight.shape[0]):
            return None
        into = out
    if x.shape[1] > 1:
        tie(labels[1], into, f"{call.name} reads a fixed axis")
    if bias is not None:
        tie(call.labels(bias)[0], out, call.name)
    for label in w[2:]:
        fix(label, "it is a place in a filter")
    return [(None, out, *(None,) * (call.results[0].ndim - 2))]


def _matrix_product(call: Call) -> list[Labels]:
    """``mm, bmm(x, y)`` and ``addmm, baddbmm(bias, x, y)``."""
    bias, (x, y) = (
        (call.args[0], call.args[1:3]) if call.name in ("addmm", "baddbmm") else (None, call.args[:2])
    )
    a, b = call.labels(x), call.labels(y)
    tie(a[-1], b[-2], f"{call.name} reads a fixed axis")
    if len(a) == 3:
        tie(a[0], b[0], call.name)
    out = (*a[:-1], b[-1])
    if bias is not None:
        for label, other, size in zip(
            reversed(call.labels(bias)), reversed(out), reversed(bias.shape), strict=False
        ):
            if size > 1:
                tie(label, other, call.name)
    return [out]


def _linear(call: Call) -> list[Labels]:
    x, weight, bias = call.args[0], call.args[1], _argument(call.args, 2)
    tie(call.labels(x)[-1], call.labels(weight)[1], f"{call.name} reads a fixed axis")
    if bias is not None:
        tie(call.labels(bias)[0], call.labels(weight)[0], call.name)
    return [(*call.labels(x)[:-1], call.labels(weight)[0])]


def _batch_norm(call: Call) -> list[Labels]:
    labels = call.labels(call.args[0])
    for tensor in call.args[1:]:
        if isinstance(tensor, Tensor) and tensor.ndim == 1 and len(tensor) > 1:
            tie(labels[1], call.labels(tensor)[0], call.name)
    return [labels]


def _layer_norm(call: Call) -> list[Labels]:
    labels = call.labels(call.args[0])
    for tensor in call.args[2:4]:
        if isinstance(tensor, Tensor):
            for label, own, size in zip(
                labels[-tensor.ndim :], call.labels(tensor), tensor.shape, strict=True
            ):
                if size > 1:
                    tie(label, own, call.name)
    return [labels]


def _group_norm(call: Call) -> list[Labels] | None:
    if call.args[6] not in (
        1,
        call.args[4],
    ):  # one group, or one a channel; others would have to stay together
        return None
    return _batch_norm(replace(call, args=call.args[:3]))


def _pool(call: Call) -> list[Labels]:
    labels = call.labels(call.args[0])
    n = 1 if call.name.endswith("1d") else 3 if call.name.endswith("3d") or "3d" in call.name else 2
    for label in labels[-n:]:
        fix(label, f"{call.name} takes it for a place")
    return [(*labels[:-n], *(None,) * n)] * len(call.results)


def _reduction(call: Call) -> list[Labels]:
    labels, dims = call.labels(call.args[0]), _argument(call.args, 1)
    keep = bool(_argument(call.args, 2, call.kwargs.get("keepdim", False)))
    gone = range(len(labels)) if dims in (None, []) else [d % len(labels) for d in _list(dims)]
    kept = [None if d in gone else label for d, label in enumerate(labels) if keep or d not in gone]
    return [tuple(kept)]


def _list(dims: Any) -> Iterable[int]:
    return [dims] if isinstance(dims, int) else dims


def _permutation(call: Call) -> list[Labels]:
    labels = list(call.labels(call.args[0]))
    if call.name == "permute":
        return [tuple(labels[d] for d in call.args[1])]
    if len(labels) > 1:
        i, j = (0, 1) if call.name == "t" else call.args[1:3]
        labels[i], labels[j] = labels[j], labels[i]
    return [tuple(labels)]


def _view(call: Call) -> list[Labels]:
    """Axes that are merged become one with runs; one that is split must fall apart between its units."""
    old, new, labels = call.args[0].shape, call.results[0].shape, call.labels(call.args[0])
    out: list[Label] = [None] * len(new)
    for before, after in _blocks(old, new):
        for d in before:
            label = labels[d]
            if label is None:
                continue
            label = resolved(label)
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
                    out[e] = Axis(label.numbering, outer // left, inner // right)
                    break
            else:
                fix(label, "reshaping splits it or merges it with others")
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


def _expand(call: Call) -> list[Labels]:
    labels = call.labels(call.args[0])
    return [(*(None,) * (call.results[0].ndim - len(labels)), *labels)]


def _cat(call: Call) -> list[Labels]:
    along = _argument(call.args, 1, 0) % call.results[0].ndim
    out = list(call.labels(call.args[0][0]))
    for tensor in call.args[0]:
        for d, label in enumerate(call.labels(tensor)):
            if d == along:
                fix(label, "it is put together with others")
            elif tensor is not call.args[0][0] and tensor.shape[d] > 1:
                tie(out[d], label, call.name)
    out[along] = None
    return [tuple(out)]


def _part(call: Call) -> list[Labels]:
    """``select(x, dim, index)``, ``slice(x, dim, ...)``, ``split(x, size, dim)``, ``unbind(x, dim)``."""
    x = call.args[0]
    place = _argument(call.args, 2, 0) if call.name.startswith("split") else _argument(call.args, 1, 0)
    along = place % x.ndim
    labels = list(call.labels(x))
    if call.results[0].shape != x.shape:
        fix(labels[along], f"{call.name} takes part of it")
        labels[along] = None
    if call.name in ("select", "unbind"):
        del labels[along]
    return [tuple(labels)] * len(call.results)


def _pad(call: Call) -> list[Labels]:
    labels = list(call.labels(call.args[0]))
    for d, (before, after) in enumerate(zip(call.args[0].shape, call.results[0].shape, strict=True)):
        if before != after:
            fix(labels[d], "it is padded")
            labels[d] = None
    return [tuple(labels)]


def _embedding(call: Call) -> list[Labels]:
    rows, width = call.labels(call.args[0])
    fix(rows, "it is chosen by the input")
    return [(*(None,) * call.args[1].ndim, width)]


def _rules(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_rules(_same, "_softmax _log_softmax clone detach _to_copy alias contiguous native_dropout dropout"),
    **_rules(pointwise, "relu relu6 hardtanh gelu silu mish elu leaky_relu sigmoid tanh copy lift_fresh"),
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
