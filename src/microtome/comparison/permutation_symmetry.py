"""Which units of a network can be renumbered without changing what it computes, found by running it once.

Every axis of every parameter starts with numbering of its own. Each operation of the forward pass then says
which axes are numbered alike: a convolution ties its input's channels to the second axis of its weight, a
norm its scale and shift to the channels, a sum the channels of both terms, flattening turns channels into
runs of columns. The class axis and the pixels cannot be renumbered, nor can whatever an operation mixes that
is not known here. (Ainsworth et al. 2023, arXiv 2209.04836, write these ties by hand for every network.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from microtome.comparison.numbering import Axis, Labels, Numbering, fix, resolved
from microtome.comparison.numbering_rules import RULES, Call, pointwise

OUTPUT = "it is the network's output"


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
                fix(label, OUTPUT)
    return _gathered(tensors, tape)


def _gathered(tensors: Mapping[str, Tensor], tape: "_Tape") -> Symmetry:
    found = {name: [a and resolved(a) for a in tape.labels(t)] for name, t in tensors.items()}
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
                self._labels[id(tensor)] = tuple(Axis(Numbering(n)) if n > 1 else None for n in tensor.shape)

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
            rule = pointwise
        found = rule(Call(self.labels, name, args, kwargs or {}, results)) if rule is not None else None
        if found is None:
            reason = f"{name} mixes or orders its units"
            for tensor in given:
                for label in self.labels(tensor):
                    fix(label, reason)
            found = [(None,) * t.ndim for t in results]
        for tensor, labels in zip(results, found, strict=False):
            if len(labels) == tensor.ndim:
                self._labels[id(tensor)] = labels
        return out
