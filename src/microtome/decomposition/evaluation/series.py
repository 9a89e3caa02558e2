"""A number a seed, measured batch after batch: its mean, and how far the mean can be trusted."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import MicrotomeError


class Series:
    """Values ``[K]`` of one quantity, one for every batch. Nothing grows with the size of a batch."""

    def __init__(self) -> None:
        self._values: list[np.ndarray] = []

    @classmethod
    def of(cls, values: Float[np.ndarray, "n K"]) -> "Series":
        """The series of values known already."""
        series = cls()
        series._values = list(np.asarray(values, dtype=np.float64))
        return series

    def add(self, values: Float[Tensor, " K"]) -> None:
        """The next batch's value of every seed."""
        self._values.append(values.detach().double().cpu().numpy())

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> Float[np.ndarray, "n K"]:
        """One row a batch."""
        return np.stack(self._values)

    @property
    def mean(self) -> Float[np.ndarray, " K"]:
        """Over the batches."""
        return self.values.mean(axis=0)


Ratio = Callable[..., Float[np.ndarray, " K"]]


def estimate(
    formula: Ratio, *series: Series
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"] | None]:
    """``formula`` of the series' means, and its standard error over batches by the jackknife.

    The error is None with a single batch. Source: Efron and Stein (1981); for one mean it is the usual
    standard error ``sd / sqrt(n)``.
    """
    rows = [one.values for one in series]
    n = len(rows[0])
    assert all(len(one) == n for one in rows)
    value = formula(*(one.mean(axis=0) for one in rows))
    if n < 2:
        return value, None
    left_out = np.stack(
        [formula(*(np.delete(one, i, axis=0).mean(axis=0) for one in rows)) for i in range(n)]
    )
    middle = left_out.mean(axis=0)
    with np.errstate(invalid="ignore"):  # infinite throughout is no spread
        apart = np.where(left_out == middle, 0.0, left_out - middle)
    spread = np.square(apart).sum(axis=0)
    return value, np.sqrt((n - 1) / n * spread)


def recovered(wanted: np.ndarray, found: np.ndarray, ablated: np.ndarray) -> np.ndarray:
    """``(ablated - found) / (ablated - wanted)``: 1 is the target's own loss, 0 that of ablating all.

    nan where ablating everything costs nothing, so that there is nothing to recover.
    """
    cost = ablated - wanted
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(cost > 0, (ablated - found) / cost, np.nan)


def named(series: Mapping[str, Series], name: str) -> Series:
    """One of them. Raises ``MicrotomeError`` for a name that was not measured."""
    if name not in series:
        raise MicrotomeError(f"{name}: not measured; there are {', '.join(series)}")
    return series[name]
