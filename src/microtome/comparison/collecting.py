"""What is kept of one layer while the network runs: pooled rows, channel vectors, and running statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.comparison.listening import channels_last, listening

CACHED = 2**16  # numbers worked on at a time: they stay in the processor's cache


@dataclass(frozen=True)
class LayerStatistics:
    """Over all images and units of a layer, before any pooling; ``mean`` and ``std`` are one number a unit.

    Units are channels times positions, channels first.
    """

    shape: tuple[int, ...]
    mean: Float[np.ndarray, " units"]
    std: Float[np.ndarray, " units"]
    zeros_of_image: Float[np.ndarray, " n"]  # share of exact zeros
    smallest: float
    largest: float

    @property
    def zeros(self) -> float:
        """Share of exact zeros among all activations."""
        return float(self.zeros_of_image.mean())

    @property
    def overall_mean(self) -> float:
        """Mean of all activations."""
        return float(self.mean.mean())

    @property
    def overall_std(self) -> float:
        """Standard deviation of all activations together (divided by their number)."""
        return float(np.sqrt(np.square(self.std).mean() + self.mean.var()))

    def arrays(self) -> dict[str, Any]:
        """Everything, ready for ``numpy.savez``."""
        return {
            "shape": np.array(self.shape),
            "mean": self.mean,
            "std": self.std,
            "zeros_of_image": self.zeros_of_image,
            "range": np.array([self.smallest, self.largest]),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "LayerStatistics":
        """The reverse of ``arrays``."""
        shape = tuple(int(size) for size in arrays["shape"])
        low, high = (float(value) for value in arrays["range"])
        return cls(shape, arrays["mean"], arrays["std"], arrays["zeros_of_image"], low, high)


class Sheet:
    """One layer at one site: fills files in ``stem-*.npy`` batch by batch."""

    def __init__(self, stem: Path, n: int, pool: int, draws: Float[np.ndarray, "n draws 2"]):
        self.stem, self.n, self.pool, self.draws = stem, n, pool, draws
        self.row, self._heard = 0, False
        self._files: dict[str, Any] = {}
        self._zeros = np.zeros(n)
        self._range = [np.inf, -np.inf]

    def add(self, output: Tensor, last: bool) -> None:
        """Take the layer's output for the next images; a second call in the same pass is not heard."""
        if self._heard:
            return
        self._heard = True
        sizes, x = channel_vectors(output.float(), last)
        if self.row == 0:
            self.shape = (x.shape[2], *sizes)
            units = x[0].numel()
            self._sum = torch.zeros(units, dtype=torch.float64, device=x.device)
            self._squares = torch.zeros_like(self._sum)
            self._first = x[0].reshape(-1).clone()  # sums are of what differs from it, for precision
        rows, channels = pooled(x, sizes, self.pool)
        self._append("rows", rows)
        self._append("channels", channels)
        self._append("positions", self._sampled(x, sizes))
        self._count(x.reshape(len(x), -1))
        self._rows = len(x)

    def next_batch(self) -> None:
        """The pass is over."""
        if self._heard:
            self.row += self._rows
        self._heard = False

    def _sampled(self, x: Float[Tensor, "B positions C"], sizes: tuple[int, ...]) -> Tensor:
        """Channel vectors at this batch's places, [B, draws, C]."""
        if x.shape[1] == 1:
            return x
        if self.row == 0:
            draws = self.draws[:, : x.shape[1]]
            index = (draws[:, :, 0] * sizes[0]).astype(np.int64)
            if len(sizes) == 2:
                index = index * sizes[1] + (draws[:, :, 1] * sizes[1]).astype(np.int64)
            self._index = torch.from_numpy(index).to(x.device)
        index = self._index[self.row : self.row + len(x)]
        return x[torch.arange(len(x), device=x.device).unsqueeze(1), index]

    def _count(self, x: Float[Tensor, "B units"]) -> None:
        """Add to the sums, a piece at a time that fits the cache."""
        sums = torch.zeros(2, x.shape[1], device=x.device)
        rows = max(1, min(len(x), CACHED // x.shape[1]))
        work, ones = torch.empty(rows, x.shape[1], device=x.device), torch.ones(rows, device=x.device)
        for piece in x.split(rows):
            apart = torch.sub(piece, self._first, out=work[: len(piece)])
            if len(piece) == 1:
                sums[0] += apart[0]
                sums[1].addcmul_(apart[0], apart[0])
            else:  # a product with ones is several times faster than a sum over rows
                sums[0].addmv_(apart.T, ones[: len(piece)])
                sums[1].addmv_(apart.square_().T, ones[: len(piece)])
            low, high = torch.aminmax(piece)
            self._range = [min(self._range[0], low.item()), max(self._range[1], high.item())]
        self._sum += sums[0]
        self._squares += sums[1]
        self._zeros[self.row : self.row + len(x)] = zeros_of_rows(x) / x.shape[1]

    def _append(self, what: str, values: Tensor) -> None:
        """Write rows behind those already in the file; a map of the whole file would count as memory."""
        array = values.detach().to("cpu", torch.float32).contiguous().numpy()
        if what not in self._files:
            file = Path(f"{self.stem}-{what}.npy").open("wb")  # noqa: SIM115 (closed by close)
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.n, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
            self._files[what] = file
        self._files[what].write(array.data)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def finish(self) -> None:
        """Write the statistics."""
        shift = (self._sum / self.n).cpu().numpy()
        variance = np.maximum((self._squares / self.n).cpu().numpy() - shift**2, 0.0)
        mean = shift + self._first.cpu().numpy()
        low, high = self._range
        # sums were kept with channels last
        mean, std = (v.reshape(-1, self.shape[0]).T.ravel() for v in (mean, np.sqrt(variance)))
        statistics = LayerStatistics(self.shape, mean, std, self._zeros, low, high)
        np.savez(f"{self.stem}-statistics.npz", **statistics.arrays())


def channel_vectors(output: Tensor, last: bool) -> tuple[tuple[int, ...], Float[Tensor, "B positions C"]]:
    """Sizes of the map (one or two numbers; none without positions) and its channel vectors.

    ``last`` says whether channels are the last dimension; memory is only copied where it is laid out
    otherwise.
    """
    if output.ndim <= 2:
        return (), output.reshape(len(output), 1, -1)
    x = output if last else output.movedim(1, -1)
    sizes = tuple(x.shape[1:-1])
    x = x.reshape(len(x), -1, x.shape[-1])
    return sizes if len(sizes) <= 2 else (x.shape[1],), x


def zeros_of_rows(x: Float[Tensor, "B units"]) -> Float[np.ndarray, " B"]:
    """How many exact zeros each row has."""
    if x.device.type != "cpu":
        return (x == 0).sum(dim=1).cpu().numpy().astype(float)
    return np.array([np.count_nonzero(row == 0) for row in x.numpy()], dtype=float)  # 5 times faster


def pooled(
    x: Float[Tensor, "B positions C"], sizes: tuple[int, ...], pool: int
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B C"]]:
    """Means over cells, channels first, and means over all positions.

    Cells divide maps into ``pool x pool`` and sequences into ``pool`` pieces, as adaptive average pooling
    does. Maps with no more positions than cells stay as they are.
    """
    if x.shape[1] == 1:
        return x[:, 0], x[:, 0]
    if x.shape[1] <= pool ** len(sizes):
        return x.transpose(1, 2).flatten(1), x.mean(dim=1)
    means = _cells(sizes, pool).to(x.device) @ x
    return means[:, :-1].transpose(1, 2).flatten(1), means[:, -1]


@lru_cache(maxsize=64)
def _cells(sizes: tuple[int, ...], pool: int) -> Float[Tensor, "cells positions"]:
    """Weights of every position in every cell, and in the mean over all as the last row."""
    whole = torch.ones(1, 1)
    for size in sizes:
        whole = torch.kron(whole, torch.nn.functional.adaptive_avg_pool1d(torch.eye(size), min(pool, size)))
    positions = whole.shape[0]
    return torch.cat([whole.T, torch.full((1, positions), 1 / positions)])


@contextmanager
def listen_to_all(
    module: nn.Module,
    names: Sequence[str],
    folder: Path,
    sheets: dict[tuple[str, str], Sheet],
    pool: int,
    draws: Float[np.ndarray, "n draws 2"],
) -> Iterator[None]:
    """While the block runs, every named layer fills its sheets (name, "pre") and (name, "post")."""
    last: dict[str, bool] = {}

    def sheet(name: str, site: str) -> Sheet:
        if (name, site) not in sheets:
            stem = folder / f"{list(names).index(name):03d}-{site}"
            sheets[name, site] = Sheet(stem, len(draws), pool, draws)
        return sheets[name, site]

    def layer(name: str, output: Tensor) -> None:
        last[name] = channels_last(module.get_submodule(name), output)
        sheet(name, "pre").add(output, last[name])

    def nonlinearity(name: str, output: Tensor) -> None:
        sheet(name, "post").add(output, last[name])

    try:
        with listening(module, names, layer, nonlinearity):
            yield
    finally:
        for each in sheets.values():
            each.close()
