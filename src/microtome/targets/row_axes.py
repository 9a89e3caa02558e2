"""Where the rows of a batch lie in what reaches a layer, found by running the module on few rows.

A site is to get ``[K, B, ...]``. Modules put their rows elsewhere: time first, positions flattened into rows,
several inputs of a row behind one another, or no rows at all, as for position embeddings.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microtome.targets.recording import Recording, recording
from microtome.targets.site_choice import NotASite


@dataclass(frozen=True)
class Layout:
    """``axis`` holds the rows, with several entries a row where it is longer than there are rows.

    ``axis=None``: the same for all rows. ``rows_first``: a row's entries follow one another.
    """

    axis: int | None = 0
    rows_first: bool = True


Layouts = Mapping[tuple[str, int], Layout]
"""By a layer's name and the number of axes of what it is given."""


def arranged(
    value: Tensor, layout: Layout, n_rows: int, name: str
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``value`` with its rows as the first axis, and how to put an output of that form back.

    Raises MicrotomeError where ``value`` holds some of the rows only.
    """
    axis = layout.axis
    if axis is None:
        shape = value.shape[1:] if value.ndim > 1 and value.shape[0] == 1 else value.shape
        return value.expand(n_rows, *shape), lambda out: out
    size = value.shape[axis] if axis < value.ndim else 0
    if size == 0 or size % n_rows:
        raise NotASite(
            f"{name}: is given {size} rows of a batch of {n_rows} (its input has shape {list(value.shape)}); "
            "a layer that sees some of the rows only cannot be decomposed, leave it out",
            [name],
        )
    each = size // n_rows
    if each == 1:
        return value.movedim(axis, 0), lambda out: out.movedim(0, axis)
    if layout.rows_first:
        split = value.movedim(axis, 0).unflatten(0, (n_rows, each))
        return split, lambda out: out.flatten(0, 1).movedim(0, axis)
    split = value.movedim(axis, 0).unflatten(0, (each, n_rows)).transpose(0, 1)
    return split, lambda out: out.transpose(0, 1).flatten(0, 1).movedim(0, axis)


@dataclass(frozen=True)
class Probe:
    """What running a module on few rows has shown of its layers."""

    layouts: Layouts
    plain: frozenset[str] = frozenset()
    """Layers whose class has a forward pass of its own that computes the plain layer all the same."""
    lasting: bool = True
    """Whether all of it holds for other inputs too."""


def probe(module: nn.Module, run: Callable[[Tensor], Any], names: Iterable[str], rows: Tensor) -> Probe:
    """Run the module on two and three of ``rows``, and see what reaches the named layers.

    ``run`` is the module's forward pass. Of one that cannot run on so few nothing is found.
    """
    other = (
        (rows != rows[:1]).reshape(len(rows), -1).any(1).nonzero().flatten()
        if len(rows) > 1
        else rows.new_empty(0)
    )
    one, two = rows[:1], rows[int(other[0]) :][:1] if len(other) else rows[:1]
    names = list(names)

    def seen(*batch: Tensor) -> Recording:
        with torch.no_grad(), recording(module, names) as found:
            run(torch.cat(batch))
        return found

    try:
        pair, triple = seen(one, two), seen(one, two, one)
    except (RuntimeError, ValueError, IndexError):
        with torch.no_grad():
            run(rows)  # a module for one size of batch; for any other, this is where its own error shows
        return Probe({})
    layouts = {
        key: _layout(pair.inputs[key], triple.inputs[key]) for key in pair.inputs.keys() & triple.inputs
    }
    several = {
        key for key, one in layouts.items() if one.axis is not None and pair.inputs[key].shape[one.axis] > 2
    }
    if several and len(other):
        swapped = seen(two, one).inputs
        for key in several & swapped.keys():
            axis = layouts[key].axis
            assert axis is not None
            layouts[key] = Layout(axis, _rows_come_first(pair.inputs[key], swapped[key], axis))
    return Probe(layouts, frozenset(pair.plain), not several or len(other) > 0)


def _layout(pair: Tensor, triple: Tensor) -> Layout:
    """The axis that grows by half when a third row joins two; without any it is the same for all."""
    sizes = list(zip(pair.shape, triple.shape, strict=True))
    grown = [axis for axis, (two, three) in enumerate(sizes) if two != three]
    if not grown:
        return Layout(None if pair.numel() else 0)
    axis = grown[0]
    return Layout(axis) if 2 * sizes[axis][1] == 3 * sizes[axis][0] else Layout(0)


def _rows_come_first(pair: Tensor, swapped: Tensor, axis: int) -> bool:
    """Whether swapping the two rows swaps the two halves, and not neighbours."""
    each = pair.shape[axis] // 2
    ours, theirs = pair.movedim(axis, 0), swapped.movedim(axis, 0)
    halves = ours.unflatten(0, (2, each)).flip(0).flatten(0, 1)
    neighbours = ours.unflatten(0, (each, 2)).flip(1).flatten(0, 1)
    return float((halves - theirs).abs().sum()) <= float((neighbours - theirs).abs().sum())
