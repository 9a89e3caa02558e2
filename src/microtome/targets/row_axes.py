"""Where the rows of a batch lie in what reaches a layer: found by running the module on few rows.

A site is to get ``[K, B, ...]``. Modules put their rows elsewhere: time first, positions flattened into rows,
several inputs of a row behind one another, or no rows at all, as for position embeddings.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError


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
        raise MicrotomeError(
            f"{name}: is given {size} rows of a batch of {n_rows} (its input has shape {list(value.shape)}); "
            "a layer that sees some of the rows only cannot be decomposed, leave it out"
        )
    each = size // n_rows
    if each == 1:
        return value.movedim(axis, 0), lambda out: out.movedim(0, axis)
    if layout.rows_first:
        split = value.movedim(axis, 0).unflatten(0, (n_rows, each))
        return split, lambda out: out.flatten(0, 1).movedim(0, axis)
    split = value.movedim(axis, 0).unflatten(0, (each, n_rows)).transpose(0, 1)
    return split, lambda out: out.transpose(0, 1).flatten(0, 1).movedim(0, axis)


def find_layouts(
    module: nn.Module, run: Callable[[Tensor], Any], names: Iterable[str], rows: Tensor
) -> tuple[dict[tuple[str, int], Layout], bool]:
    """The layouts of what reaches the named layers, and whether they hold for other inputs too.

    ``run`` is the module's forward pass. Of one that runs on no two or three rows nothing is found.
    """
    other = (rows != rows[:1]).flatten(1).any(1).nonzero().flatten() if len(rows) > 1 else rows.new_empty(0)
    one, two = rows[:1], rows[int(other[0]) :][:1] if len(other) else rows[:1]
    names = list(names)

    def seen(*batch: Tensor) -> dict[tuple[str, int], Tensor]:
        with torch.no_grad(), _recorded(module, names) as found:
            run(torch.cat(batch))
        return found

    try:
        pair, triple = seen(one, two), seen(one, two, one)
    except (RuntimeError, ValueError, IndexError):
        with torch.no_grad():
            run(rows)  # a module for one size of batch; for any other, this is where its own error shows
        return {}, True
    layouts = {key: _layout(pair[key], triple[key]) for key in pair.keys() & triple.keys()}
    several = {k for k, one in layouts.items() if one.axis is not None and pair[k].shape[one.axis] > 2}
    if several and len(other):
        swapped = seen(two, one)
        for key in several & swapped.keys():
            axis = layouts[key].axis
            assert axis is not None
            layouts[key] = Layout(axis, _rows_come_first(pair[key], swapped[key], axis))
    return layouts, not several or len(other) > 0


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


@contextmanager
def _recorded(module: nn.Module, names: Iterable[str]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """What each named module is first given, by its number of axes."""
    found: dict[tuple[str, int], Tensor] = {}
    with ExitStack() as undo:
        undo.enter_context(without_fused_attention())
        for name in names:

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                value = first_tensor(args, kwargs)
                if value is not None:
                    found.setdefault((name, value.ndim), value)

            layer = module.get_submodule(name)
            undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield found


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a layer works on: its first tensor of numbers, of ids where there is none."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return next((value for value in tensors if value.is_floating_point()), tensors[0] if tensors else None)


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """The fused transformer kernel reads the weights itself and would pass the sites by."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
