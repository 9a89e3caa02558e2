"""Sums over token positions: all that is kept of the data, however much of it there is."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum

# Rows of `Moments.sums`. S_s is the sum over the positions of sample s, A_s that of absolute values, n_s their number.
SIGNED, ABSOLUTE, SIGNED_SQUARES, SIGNED_LENGTHS, ABSOLUTE_SQUARES, ABSOLUTE_LENGTHS = range(6)
# Entries of `Moments.counts`.
POSITIONS, SAMPLES, SQUARED_LENGTHS = range(3)
MODES = ("mean", "mean_abs")


class Moments:
    """Streamed sums of ``D`` values over token positions, grouped by sample, in float64.

    ``sums [6, D]`` holds the sums over samples of S, A, S^2, S n, A^2 and A n, where S and A are one sample's
    sum and sum of absolute values over its n positions; ``counts [3]`` the sums of n, 1 and n^2. Two of them
    merge by addition, which is all that chunks, processes and resumed runs need.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(6, width, dtype=torch.float64, device=device)
        self.counts = torch.zeros(3, dtype=torch.float64)

    @property
    def width(self) -> int:
        """D."""
        return self.sums.shape[1]

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
        """Add samples' sums for the values ``start .. start + w``; ``absolute`` None leaves those rows as they are."""
        rows = self.sums[:, start : start + signed.shape[1]]
        lengths = lengths.to(rows)
        for values, total in ((signed, SIGNED), (absolute, ABSOLUTE)):
            if values is None:
                continue
            values = values.to(rows)
            squares, products = _rows_of_spread(total)
            rows[total] += values.sum(0)
            rows[squares] += torch.einsum("sw,sw->w", values, values)
            rows[products] += lengths @ values

    def add_pairs(
        self,
        features: Int[Tensor, " P"],
        lengths: Float[Tensor, " P"],
        signed: Float[Tensor, " P"],
        absolute: Float[Tensor, " P"],
    ) -> None:
        """Add sums of (sample, feature) pairs, each pair once; ``lengths`` are those of the pairs' samples."""
        lengths = lengths.to(self.sums)
        for values, total in ((signed, SIGNED), (absolute, ABSOLUTE)):
            values = values.to(self.sums)
            squares, products = _rows_of_spread(total)
            self.sums[total].index_add_(0, features, values)
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
        """Standard error of ``mean(mode)`` when other samples were drawn; nan with fewer than two.

        Positions of one sample are not independent, so that samples are what counts: the error of a ratio of
        sums, linearised (Cochran, Sampling Techniques, 3rd ed., section 6.4).
        """
        if self.samples < 2:
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
