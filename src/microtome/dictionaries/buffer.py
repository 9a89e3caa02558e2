"""A stream of activations, mixed within a bounded buffer, that can be carried on from any point."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator

MOST_BYTES = 1 << 30
BATCHES = 64


@runtime_checkable
class Source(Protocol):
    """Where activations come from."""

    def chunks(self, position: int) -> Iterator[dict[str, Tensor]]:
        """Chunks ``{site: [n, d]}`` from the ``position``-th on (0 the first), the same every time."""
        ...


class TensorSource:
    """Activations from a tensor, an iterable of tensors, or a function that makes an iterator of them.

    One tensor ``[n, d]`` a chunk, or a mapping of site to tensor. What can be run through again is, as often
    as is needed.
    """

    def __init__(self, activations: object, site: str = "activations", chunk: int = 4096) -> None:
        self.activations, self.site, self.chunk = activations, site, chunk

    def chunks(self, position: int) -> Iterator[dict[str, Tensor]]:
        """The chunks; those before ``position`` are run through."""
        number = 0
        while True:
            before = number
            for value in self._once():
                if number >= position:
                    yield {self.site: value} if isinstance(value, Tensor) else dict(value)
                number += 1
            if number == before:
                return

    def _once(self) -> Iterator[Tensor | Mapping[str, Tensor]]:
        given = self.activations
        if isinstance(given, Tensor):
            return iter(given.split(self.chunk))
        if isinstance(given, Mapping):
            parts = {name: tensor.split(self.chunk) for name, tensor in given.items()}
            return (dict(zip(parts, group, strict=True)) for group in zip(*parts.values(), strict=True))
        if isinstance(given, Iterable):
            return iter(given)  # pyright: ignore[reportReturnType]
        if isinstance(given, Callable):
            return iter(given())  # pyright: ignore[reportArgumentType]
        raise MicrotomeError(
            f"activations: a {type(given).__name__}; give a tensor [n, d], or an iterable of them"
        )


class ShuffledBatches:
    """Batches from a source: a block of inputs is collected, mixed, and served to its end.

    Only the place of the block's first chunk and the number of batches served make up its state: a block is
    collected again when a run is carried on. What is left of a block, less than a batch, is dropped.
    """

    def __init__(
        self, source: Source, batch_size: int, *, seed: int, buffer: int | None = None, shuffle: bool = True
    ) -> None:
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self.wanted = buffer
        self.position = 0  # of the chunk after the block
        self.block_start = 0
        self.served = 0
        self._block: dict[str, Tensor] = {}
        self._order = torch.empty(0, dtype=torch.long)
        self._chunks: Iterator[dict[str, Tensor]] | None = None

    def next(self) -> dict[str, Tensor]:
        """The next batch ``{site: [batch_size, d]}``. Raises ``MicrotomeError`` when the source has ended."""
        while (self.served + 1) * self.batch_size > len(self._order):
            self._fill(self.position)
        rows = self._order[self.served * self.batch_size : (self.served + 1) * self.batch_size]
        self.served += 1
        return {name: values[rows] for name, values in self._block.items()}

    def first_block(self) -> dict[str, Tensor]:
        """The block that the next batch comes from."""
        if not self._block:
            self._fill(self.position)
        return self._block

    def state(self) -> dict[str, int]:
        """Where in the stream the next batch is."""
        return {"block_start": self.block_start, "served": self.served}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go back to a saved place; the block there is collected again."""
        self._chunks = None
        self._fill(int(state["block_start"]))
        self.served = int(state["served"])

    def _fill(self, position: int) -> None:
        if self._chunks is None or position != self.position:
            self._chunks, self.position = self.source.chunks(position), position
        start, parts, rows, wanted = position, [], 0, self.wanted
        while wanted is None or rows < max(wanted, self.batch_size):
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            _check(chunk)
            parts.append(chunk)
            self.position += 1
            rows += len(next(iter(chunk.values())))
            wanted = self.wanted = wanted or self._default(chunk)
        if rows < self.batch_size:
            raise MicrotomeError(
                f"activations: the stream ended with {rows} inputs left, fewer than batch_size="
                f"{self.batch_size}; give more, or lower steps or batch_size"
            )
        self._block = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        mixing = generator(self.seed, stream=f"block {start}")
        self._order = torch.randperm(rows, generator=mixing) if self.shuffle else torch.arange(rows)
        self.block_start, self.served = start, 0

    def _default(self, chunk: Mapping[str, Tensor]) -> int:
        width = sum(value.shape[1] * value.element_size() for value in chunk.values())
        return max(min(BATCHES * self.batch_size, MOST_BYTES // width), self.batch_size)


def _check(chunk: Mapping[str, Tensor]) -> None:
    lengths = {len(value) for value in chunk.values()}
    for name, value in chunk.items():
        if value.ndim != 2 or len(lengths) != 1:
            raise MicrotomeError(
                f"{name}: activations of shape {list(value.shape)}; give [n, d] with the same n at every site"
            )
        if not bool(torch.isfinite(value).all()):
            raise MicrotomeError(f"{name}: activations hold NaN or infinity; look at the model or its dtype")
