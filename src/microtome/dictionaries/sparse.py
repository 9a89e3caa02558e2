"""Products with the few features that act, without an array of all features.

The active features of a batch are a flat list, in order of their rows: ``features [n]``, ``values [n]``,
where row ``b`` owns the part from ``starts[b]`` to ``starts[b + 1]``. A product with the decoder then reads
only its rows that are needed (``embedding_bag``), and a gradient of a weight matrix is the same operation on
the list in order of features.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Entries:
    """Active features of a batch of ``n_rows`` rows, row by row."""

    features: Int[Tensor, " n"]
    values: Float[Tensor, " n"]
    starts: Int[Tensor, " B"]
    rows: Int[Tensor, " n"]
    order: Int[Tensor, " n"] | None = None
    """The entries in order of their features; found when it is first wanted."""
    feature_starts: Int[Tensor, " F"] | None = None

    def with_values(self, values: Float[Tensor, " n"]) -> "Entries":
        """The same places with other values."""
        return replace(self, values=values)

    def between(self, low: int, high: int) -> "Entries":
        """Only the entries of features ``low`` to ``high``, their numbers counted from ``low``."""
        inside = (self.features >= low) & (self.features < high)
        kept = inside.nonzero()[:, 0]
        return from_pairs(self.rows[kept], self.features[kept] - low, self.values[kept], self.starts.shape[0])


def from_pairs(
    rows: Int[Tensor, " n"], features: Int[Tensor, " n"], values: Float[Tensor, " n"], n_rows: int
) -> Entries:
    """Entries from lists in order of rows."""
    counts = torch.bincount(rows, minlength=n_rows)
    return Entries(features, values, counts.cumsum(0) - counts, rows)


def from_table(values: Float[Tensor, "B k"], indices: Int[Tensor, "B k"]) -> Entries:
    """Entries of ``k`` features in every row."""
    n_rows, k = indices.shape
    starts = torch.arange(0, n_rows * k, k, device=indices.device)
    rows = torch.arange(n_rows, device=indices.device).repeat_interleave(k)
    return Entries(indices.reshape(-1), values.reshape(-1), starts, rows)


def decoded(entries: Entries, W: Float[Tensor, "F d"]) -> Float[Tensor, "B d"]:
    """``f @ W`` where ``f`` holds the entries."""
    return F.embedding_bag(entries.features, W, entries.starts, mode="sum", per_sample_weights=entries.values)


def dots(entries: Entries, g: Float[Tensor, "B d"], W: Float[Tensor, "F d"]) -> Float[Tensor, " n"]:
    """``g[row] . W[feature]`` of every entry."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        g, W, entries.features, entries.starts, entries.rows, 0
    )


def gathered(entries: Entries, g: Float[Tensor, "B d"], n_features: int) -> Float[Tensor, "F d"]:
    """``f.T @ g`` where ``f [B, F]`` holds the entries: one row a feature, 0 where none acts."""
    order, starts = by_feature(entries, n_features)
    return F.embedding_bag(
        entries.rows[order], g, starts, mode="sum", per_sample_weights=entries.values[order]
    )


def by_feature(entries: Entries, n_features: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " F"]]:
    """The order of the entries by feature (rows stay in order), and where each feature begins in it."""
    if entries.order is None or entries.feature_starts is None:
        features = entries.features
        if features.device.type == "cpu":
            # numpy sorts numbers of 16 bits by counting, many times faster than torch sorts 64 bits.
            small = features.numpy().astype(np.uint16 if n_features <= 1 << 16 else np.int32)
            entries.order = torch.from_numpy(np.argsort(small, kind="stable"))
        else:
            entries.order = torch.argsort(features, stable=True)
        counts = torch.bincount(features, minlength=n_features)
        entries.feature_starts = counts.cumsum(0) - counts
    return entries.order, entries.feature_starts


def summed(entries: Entries, values: Float[Tensor, " n"], n_features: int) -> Float[Tensor, " F"]:
    """The sum of ``values`` over the entries of each feature."""
    out = torch.zeros(n_features, dtype=values.dtype, device=values.device)
    return out.index_add_(0, entries.features, values)
