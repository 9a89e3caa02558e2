"""The checks of a verdict: what was measured, what was asked, and whether one can be told from the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

Status = Literal["passed", "failed", "unclear", "not measured"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Check:
    """One question to a decomposition and its answer.

    ``values`` are one a seed and ``margins`` half their 95 % intervals over batches (None: measured without
    batches, or on one only). A seed passes when its whole interval is on the right side of ``limit``, fails
    when its whole interval is on the other, and is unclear in between. The check fails as soon as one seed
    does.
    """

    name: str
    question: str
    wanted: str
    status: Status
    why: str
    values: tuple[float, ...] = ()
    margins: tuple[float, ...] | None = None
    limit: float | None = None
    by_seed: tuple[Status, ...] = ()
    unit: str = ""
    ratio: bool = False
    """Whether intervals are on a logarithmic scale."""

    @property
    def verdict(self) -> str:
        """The status; with several seeds of which some pass, how many do not."""
        short = sum(status != "passed" for status in self.by_seed)
        return (
            self.status if short in (0, len(self.by_seed)) else f"{self.status} {short}/{len(self.by_seed)}"
        )

    @property
    def measured(self) -> str:
        """The mean over seeds with the lowest and highest seed, and the widest margin over batches."""
        if not self.values:
            return "-"
        mean = float(np.mean(self.values))
        text = number(mean) + self.unit
        if len(self.values) > 1:
            text += f" [{number(min(self.values))}, {number(max(self.values))}]"
        if self.margins is not None and max(self.margins) > 0:
            text += self._spread()
        return text

    def _spread(self) -> str:
        """The widest seed's interval over batches; of ratios, whose errors are lopsided, as a factor."""
        assert self.margins is not None
        if not self.ratio:
            return f" ± {number(max(self.margins))}"
        factors = [
            np.exp(half / value) if value > 0 else np.inf
            for half, value in zip(self.margins, self.values, strict=True)
        ]
        return f" ×/÷ {number(max(factors))}"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be avoided."""
    if not np.isfinite(value):
        return "inf" if value > 0 else "unknown"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def margins_of(error: Float[np.ndarray, " K"] | None, n_batches: int) -> tuple[float, ...] | None:
    """Half the 95 % interval of a mean over batches: Student's t times the standard error."""
    if error is None or n_batches < 2:
        return None
    return tuple((stats.t.ppf(0.5 + CONFIDENCE / 2, n_batches - 1) * error).tolist())


def judged(
    name: str,
    question: str,
    values: Sequence[float] | Float[np.ndarray, " K"],
    margins: tuple[float, ...] | None,
    *,
    limit: float,
    at_most: bool,
    passed: str,
    failed: str | Callable[[int], str],
    wanted: str = "",
    unit: str = "",
    ratio: bool = False,
) -> Check:
    """The check of ``values`` against ``limit``; ``failed``: what that means, or makes it of a seed."""
    values = np.asarray(values, dtype=float)
    half = np.zeros_like(values) if margins is None else np.asarray(margins)
    low, high = _interval(values, half, ratio=ratio)
    good, bad = (high <= limit, ~(low <= limit)) if at_most else (low >= limit, ~(high >= limit))
    distance = (values - limit) * (1.0 if at_most else -1.0)  # above 0: on the wrong side
    status: Status = "failed" if bad.any() else "passed" if good.all() else "unclear"
    worst = int(np.argmax(np.where(np.isnan(distance), np.inf, distance)))
    if status == "passed":
        why = passed
    elif status == "failed":
        why = failed if isinstance(failed, str) else failed(worst)
        why = _which(bad) + why
    else:
        why = (
            f"{_which(~good)}the limit lies within the spread over batches ({number(low[worst])} to"
            f" {number(high[worst])}); measure on more batches"
        )
    side = "at most" if at_most else "at least"
    return Check(
        name,
        question,
        wanted or f"{side} {number(limit)}{unit}",
        status,
        why,
        tuple(values.tolist()),
        margins,
        limit,
        tuple("passed" if g else "failed" if b else "unclear" for g, b in zip(good, bad, strict=True)),
        unit,
        ratio,
    )


def _interval(values: np.ndarray, half: np.ndarray, *, ratio: bool) -> tuple[np.ndarray, np.ndarray]:
    """From low to high; of ratios, whose errors are lopsided, on a logarithmic scale."""
    if not ratio:
        return values - half, values + half
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(half > 0, np.exp(half / values), 1.0)
    return values / factor, values * factor


def not_measured(name: str, question: str, wanted: str, why: str) -> Check:
    """A check that does not apply, or whose measurement was not asked for."""
    return Check(name, question, wanted, "not measured", why)


def _which(chosen: np.ndarray) -> str:
    """``seeds 0, 3 of 5: ``; nothing for a single seed."""
    if len(chosen) == 1:
        return ""
    if chosen.all():
        return "both seeds: " if len(chosen) == 2 else f"all {len(chosen)} seeds: "
    some = np.flatnonzero(chosen)
    names = ", ".join(map(str, some[:8])) + (", ..." if len(some) > 8 else "")
    return f"seed{'s' if len(some) > 1 else ''} {names} of {len(chosen)}: "
