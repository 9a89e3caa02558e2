"""Which token positions count, and to which sample each belongs."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.data.text import TokenBatch


@dataclass(frozen=True)
class Positions:
    """The ``N`` counted positions of a batch, sample by sample.

    ``rows`` are their places in the batch flattened to ``[B * T]``, ``text`` and ``place`` the number of the
    text and the position in it. They form G ``group``s, one a sample, whose sums are multiplied by ``scale``
    and counted with ``lengths``.
    """

    rows: Int[Tensor, " N"]
    text: Int[Tensor, " N"]
    place: Int[Tensor, " N"]
    group: Int[Tensor, " N"]
    lengths: Float[Tensor, " G"]
    scale: Float[Tensor, " G"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def members(self, like: Tensor) -> Float[Tensor, "G N"]:
        """1 where a position belongs to a group: the matrix that sums positions, in the dtype of ``like``."""
        matrix = torch.zeros(len(self.lengths), len(self), dtype=like.dtype, device=like.device)
        matrix[self.group.to(like.device), torch.arange(len(self), device=like.device)] = 1
        return matrix

    def where(self, keep: Bool[Tensor, " N"]) -> "Positions":
        """Only some of the positions; groups keep their numbers and count as many positions as are left."""
        group = self.group[keep]
        left = torch.bincount(group, minlength=len(self.lengths)).float()
        scale, lengths = self.scale, left
        if scale is not None:  # means of batches: a batch counts once, however many positions are left
            scale, lengths = 1 / left.clamp_min(1), (left > 0).float()
        return replace(
            self,
            rows=self.rows[keep],
            text=self.text[keep],
            place=self.place[keep],
            group=group,
            lengths=lengths,
            scale=scale,
        )


def joined(parts: list[Positions]) -> Positions:
    """Positions of several batches as those of one; ``rows`` then count through the counted positions."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.lengths))
    scales = [part.scale for part in parts if part.scale is not None]
    return Positions(
        rows=torch.arange(sum(map(len, parts))),
        text=torch.cat([part.text for part in parts]),
        place=torch.cat([part.place for part in parts]),
        group=torch.cat([part.group + offset for part, offset in zip(parts, offsets, strict=False)]),
        lengths=torch.cat([part.lengths for part in parts]),
        scale=torch.cat(scales) if scales else None,
    )


def counted_positions(
    batch: TokenBatch, stride: int = 1, leave_out: Collection[int] = (), batch_mean: bool = False
) -> Positions:
    """The positions of a batch that count: real tokens, every ``stride``-th, but no ids in ``leave_out``.

    The stride runs within each sample, so that it does not depend on the batch. ``batch_mean`` is the
    original's way instead: the stride runs through all real tokens of the batch, and the batch is one group
    whose mean counts once, whatever its size.
    """
    real = batch.attention_mask.bool()
    width = real.shape[1]
    count = real.long().cumsum(1) - 1
    if batch_mean:
        flat = real.flatten().nonzero()[:, 0][::stride]
        chosen = torch.zeros(real.numel(), dtype=torch.bool)
        chosen[flat] = True
        chosen = chosen.view_as(real)
    else:
        chosen = real & (count % stride == 0)
    if leave_out:
        chosen &= ~torch.isin(batch.input_ids, torch.tensor(sorted(leave_out)))
    rows = chosen.flatten().nonzero()[:, 0]
    sample = rows // width
    text = torch.tensor(batch.index)[sample]
    place = count.flatten()[rows]
    if batch_mean:
        n = torch.tensor([float(len(rows))])
        group, lengths, scale = torch.zeros_like(rows), (n > 0).float(), 1 / n.clamp_min(1)
        return Positions(rows, text, place, group, lengths, scale)
    lengths = torch.bincount(sample, minlength=len(batch.index)).float()
    return Positions(rows, text, place, sample, lengths)
