"""Sums over token positions: all that is kept of the data, however much of it there is."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum

# Rows of `Moments.sums`.
SIGNED, ABSOLUTE, SIGNED_SQUARES, SIGNED_LENGTHS, ABSOLUTE_SQUARES, ABSOLUTE_LENGTHS = range(6)
# Entries of `Moments.counts`.
POSITIONS, SAMPLES, SQUARED_LENGTHS = range(3)
MODES = ("mean", "mean_abs")


class Moments:
    """Streamed sums of ``D`` values over token positions, grouped by sample, in float64.

    ``sums [6, D]`` holds the sums over samples of S, A, S^2, S n, A^2 and A n, where S and A are one sample's
    sum and sum of absolute values over its n positions (only the first two without ``spread``); ``counts
    [3]`` the sums of n, 1 and n^2. Two of them merge by addition, which is all that chunks, processes and
    resumed runs need.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu", spread: bool = True) -> None:
        rows = 6 if spread else 2
        self.sums = torch.zeros(rows, width, dtype=torch.float64, device=device)
        self.counts = torch.zeros(3, dtype=torch.float64)

    @property
    def width(self) -> int:
        """D."""
        return self.sums.shape[1]

    @property
    def spread(self) -> bool:
        """Whether standard errors can be given."""
        return len(self.sums) > 2

    @property
    def positions(self) -> float:
        """Token positions counted."""
        return float(self.counts[POSITIONS])

    @property
    def samples(self) -> int:
        """Samples counted."""
        return int(self.counts[SAMPLES])

    def count(self, lengths: Float[Tensor, " S"]) -> None:
        """Count samples of these many positions; the sums come by ``add`` or ``add_pairs``."""
        lengths = lengths.double().cpu()
        self.counts += torch.stack([lengths.sum(), torch.tensor(float(len(lengths))), lengths.square().sum()])

    def add(
        self,
        signed: Float[Tensor, "S w"],
        absolute: Float[Tensor, "S w"] | None,
        lengths: Float[Tensor, " S"],
        start: int = 0,
    ) -> None:
        """Add samples' sums for the values from ``start`` on; without ``absolute`` those rows stay."""
        rows = self.sums[:, start : start + signed.shape[1]]
        lengths = lengths.to(rows)
        for values, total in ((signed, SIGNED), (absolute, ABSOLUTE)):
            if values is None:
                continue
            values = values.to(rows)
            rows[total] += values.sum(0)
            if self.spread:
                squares, products = _rows_of_spread(total)
                rows[squares] += torch.einsum("sw,sw->w", values, values)
                rows[products] += lengths @ values

    def add_pairs(
        self,
        features: Int[Tensor, " P"],
        lengths: Float[Tensor, " P"],
        signed: Float[Tensor, " P"],
        absolute: Float[Tensor, " P"],
    ) -> None:
        """Add sums of (sample, feature) pairs, each once; ``lengths`` are those of the pairs' samples."""
        features, lengths = features.to(self.sums.device), lengths.to(self.sums)
        for values, total in ((signed, SIGNED), (absolute, ABSOLUTE)):
            values = values.to(self.sums)
            self.sums[total].index_add_(0, features, values)
            if self.spread:
                squares, products = _rows_of_spread(total)
                self.sums[squares].index_add_(0, features, values.square())
                self.sums[products].index_add_(0, features, values * lengths)

    def merge(self, other: "Moments") -> None:
        """Add what another one has seen."""
        self.sums += other.sums.to(self.sums.device)
        self.counts += other.counts

    def all_reduce(self, processes: Processes) -> None:
        """Add up over all processes."""
        self.sums = all_reduce_sum(self.sums, processes)
        self.counts = all_reduce_sum(self.counts.to(self.sums.device), processes).cpu()

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` makes the same sums again."""
        return {"sums": self.sums, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the sums of ``state``."""
        self.sums = state["sums"].to(self.sums)
        self.counts = state["counts"].to(self.counts)

    def mean(self, mode: str = "mean_abs") -> Float[Tensor, " D"]:
        """Mean over positions of the values (``mean``) or of their absolute values (``mean_abs``)."""
        total = SIGNED if mode == "mean" else ABSOLUTE
        return (self.sums[total] / max(self.positions, 1e-300)).cpu()

    def standard_error(self, mode: str = "mean_abs") -> Float[Tensor, " D"]:
        """Standard error of ``mean(mode)`` when other samples were drawn; nan with fewer than two samples.

        Positions of one sample are not independent, so that samples are what counts: the error of a ratio of
        sums, linearised (Cochran, Sampling Techniques, 3rd ed., section 6.4).
        """
        if self.samples < 2 or not self.spread:
            return torch.full((self.width,), torch.nan, dtype=torch.float64)
        total = SIGNED if mode == "mean" else ABSOLUTE
        squares, products = _rows_of_spread(total)
        mean = self.sums[total] / self.positions
        residual = (
            self.sums[squares] - 2 * mean * self.sums[products] + mean.square() * self.counts[SQUARED_LENGTHS]
        )
        variance = residual.clamp(min=0) * self.samples / (self.samples - 1)
        return (variance.sqrt() / self.positions).cpu()


def _rows_of_spread(total: int) -> tuple[int, int]:
    return (SIGNED_SQUARES, SIGNED_LENGTHS) if total == SIGNED else (ABSOLUTE_SQUARES, ABSOLUTE_LENGTHS)
