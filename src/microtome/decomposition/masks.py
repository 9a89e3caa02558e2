"""Masks over subcomponents: the plain formulation and where their randomness comes from."""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 16


def stochastic_mask(ci: Float[Tensor, "*#any"], source: Float[Tensor, "*#any"]) -> Float[Tensor, "*#any"]:
    """``ci + (1 - ci) * source`` with source uniform in [0, 1): SPD paper, equation for stochastic masks."""
    if source.dtype != ci.dtype:
        return ci + (1 - ci) * source
    return torch.lerp(source, source.new_ones(()), ci)


def draw_key(generator: torch.Generator) -> int:
    """A key that stands for one fresh draw of uniform numbers: one for every loss."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


class Draws:
    """The random numbers of one step, the same however its batch is cut over processes and micro-batches.

    Whoever cuts the batch gives every part the same ``seed`` and asks for keys in the same order.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._drawn = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    @property
    def drawn(self) -> int:
        """How many keys have been asked for."""
        return self._drawn

    def go_on_from(self, drawn: int) -> None:
        """The next key is the one that came after ``drawn`` keys."""
        self._drawn = drawn

    def key(self) -> int:
        """A fresh key: stands for one draw over the whole batch."""
        self._drawn += 1
        return _hashed(self.seed, self._drawn)

    def uniform(
        self, key: int, shape: Sequence[int], rows: slice, like: Tensor
    ) -> Float[Tensor, "K B *rest"]:
        """Uniform numbers in [0, 1) for ``rows`` of the whole batch, of the dtype and device of ``like``.

        ``shape``: ``[K, rows.stop - rows.start, ...]``. Rows are drawn in blocks, each from a seed of its
        own, so that a row has the same numbers whichever part of the batch it is drawn with.
        """
        k, n, *rest = shape
        assert rows.stop - rows.start == n, (rows, shape)
        size = max(1, _BLOCK_ELEMENTS // max(1, k * math.prod(rest)))
        out = torch.empty((k, n, *rest), dtype=like.dtype, device=like.device)
        draw = self._generator(like.device)
        for block in range(rows.start // size, -(-rows.stop // size)):
            first = block * size
            start, stop = max(rows.start, first), min(rows.stop, first + size)
            draw.manual_seed(_hashed(key, block))
            mine = out[:, start - rows.start : stop - rows.start]
            if k == 1 and stop - start == size:
                mine.uniform_(generator=draw)
                continue
            numbers = torch.rand((k, size, *rest), generator=draw, dtype=like.dtype, device=like.device)
            mine.copy_(numbers[:, start - first : stop - first])
        return out

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device]


def _hashed(seed: int, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
