"""Which features act, found block by block so that no ``[N, F]`` array exists."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.groupmax import group_max
from microtome.dictionaries.topk import top_k

Active = tuple[Float[Tensor, "N _"], Int[Tensor, "N _"]]


def block_active(
    x: Float[Tensor, "N d"],
    encoder_rows: Callable[[int, int], Tensor],
    candidates: Callable[[Tensor, int, int], Tensor],
    config: DictionaryConfig,
    block: int,
) -> Active:
    """Values and numbers of the features that act on each row of ``x`` (already centred and scaled)."""
    n, k = config.n_features, config.k
    if config.architecture == "groupmax":
        assert k is not None
        size = n // k
        block = max(block // size, 1) * size  # whole groups
    found: list[Active] = []
    best: Active | None = None
    for start in range(0, n, block):
        stop = min(start + block, n)
        rows = encoder_rows(start, stop)
        values = candidates((x.to(rows.dtype) @ rows.T).float(), start, stop)
        if config.architecture == "topk":
            assert k is not None
            kept, inside = top_k(values, k)
            best = _better(best, (kept, inside + start), k)
        elif config.architecture == "groupmax":
            assert k is not None
            kept, inside = group_max(values, (stop - start) * k // n)
            found.append((kept, inside + start))
        else:
            kept, inside = positive(values)
            found.append((kept, inside + start * (kept > 0)))
    if best is not None:
        return best
    values = torch.cat([kept for kept, _ in found], 1)
    indices = torch.cat([inside for _, inside in found], 1)
    if config.architecture == "groupmax":
        return values, indices
    return _packed(values, indices)


def positive(values: Float[Tensor, "N n"]) -> Active:
    """The entries greater than 0 of every row, padded with value 0 at index 0 to the fullest row."""
    widest = int((values > 0).sum(1).max()) if values.numel() else 0
    kept, inside = (
        values.topk(widest, dim=1, sorted=False) if widest else (values[:, :0], values[:, :0].long())
    )
    kept = kept.clamp_min(0)
    return kept, inside * (kept > 0)


def _better(best: Active | None, new: Active, k: int) -> Active:
    if best is None:
        return new
    values, indices = torch.cat([best[0], new[0]], 1), torch.cat([best[1], new[1]], 1)
    kept, where = top_k(values, k)
    return kept, indices.gather(1, where)


def _packed(values: Tensor, indices: Tensor) -> Active:
    kept, where = positive(values)
    return kept, indices.gather(1, where) * (kept > 0)
