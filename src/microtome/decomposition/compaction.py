"""Leave out rows that cannot matter: exact, and most of the batch where features are sparse.

A row whose input is zero reaches every site as zero when nothing adds a bias on the way. Its subcomponents
then carry nothing, whatever the mask, so it adds exactly nothing to any reconstruction loss, and a constant
to the importance loss. One zero row with the weight of all of them stands for the lot.
"""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from microtome.decomposition.kernels.single_precision import pointer, single_precision_library
from microtome.targets.network import Target


@dataclass(frozen=True)
class Rows:
    """A batch with a weight per row; ``n`` is how many rows the whole batch had."""

    x: Shaped[Tensor, "K N *d"]
    weight: Float[Tensor, "K N"]
    n: int


def all_rows(x: Shaped[Tensor, "K B *d"]) -> Rows:
    """The batch as it is, every row with weight one."""
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return Rows(x, x.new_ones(x.shape[:2], dtype=dtype), x.shape[1])


def zero_stays_zero(target: Target, d_in: int) -> bool:
    """Whether a zero row reaches every site of ``target`` as zero (measured, not assumed)."""
    quiet = True

    def site(name: str, x: Tensor) -> Tensor:
        nonlocal quiet
        quiet = quiet and not bool(x.any())
        return target.sites()[name].apply(x)

    weight = next(iter(target.sites().values())).weight
    with torch.no_grad():
        target(weight.new_zeros(target.n_instances, 1, d_in), site)
    return quiet


def compact(x: Float[Tensor, "K B d"]) -> Rows:
    """Gather the non-zero rows of each instance; one more zero row carries the weight of the rest."""
    library = single_precision_library("rows", x)
    return _torch_compact(x) if library is None else _compiled_compact(library, x.contiguous())


def _compiled_compact(library: ctypes.CDLL, x: Tensor) -> Rows:
    n_instances, batch, _ = x.shape
    sizes = [ctypes.c_long(size) for size in x.shape]
    counts = torch.empty(n_instances, dtype=torch.long)
    library.count_rows(pointer(x), *sizes, pointer(counts))
    kept = int(counts.max()) + 1
    if kept >= batch:
        return all_rows(x)
    rows, weight = x.new_empty(n_instances, kept, x.shape[2]), x.new_empty(n_instances, kept)
    library.gather_rows(pointer(x), *sizes, ctypes.c_long(kept), pointer(rows), pointer(weight))
    return Rows(rows, weight, batch)


def _torch_compact(x: Tensor) -> Rows:
    n_instances, batch, width = x.shape
    used = x.any(-1)
    counts = used.sum(1)
    kept = int(counts.max()) + 1
    if kept >= batch:
        return all_rows(x)
    instance, row = used.nonzero(as_tuple=True)
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(row), device=x.device) - first[instance]
    rows = x.new_zeros(n_instances, kept, width)
    rows[instance, place] = x[instance, row]
    weight = x.new_zeros(n_instances, kept)
    weight[instance, place] = 1.0
    weight[torch.arange(n_instances, device=x.device), counts] = (batch - counts).to(x.dtype)
    return Rows(rows, weight, batch)
