"""The local learning coefficient: how many directions of the loss around a state are really used.

Lau et al. (2023), "The local learning coefficient": ``n beta (E[L(w)] - L(w*))`` with the mean over weights
drawn near ``w*`` by stochastic-gradient Langevin dynamics (SGLD), ``beta = 1 / log n``.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.seeds import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_SIZES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
LOCALIZATION = 100.0
MOST_AT_ONCE = 256
BEYOND = 10.0  # a coefficient is at most half the number of parameters: a draw above so many times it is lost
DRIFT = 0.2
AGREES = 0.25  # neighbouring step sizes whose estimates differ by less than this share
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Chains:
    """SGLD at one step size. ``trace [chains, draws]`` holds ``n beta (L(w) - L(w*))`` of every draw."""

    step_size: float
    trace: Float[np.ndarray, "chains draws"]
    kept: int

    @property
    def value(self) -> float:
        """Mean over the draws that are kept, of all chains; NaN when one diverged."""
        return float(self._by_chain().mean()) if self.finite else float("nan")

    @property
    def sd(self) -> float:
        """Standard deviation of the chains' means."""
        means = self._by_chain()
        return float(means.std(ddof=1)) if self.finite and len(means) > 1 else float("nan")

    @property
    def finite(self) -> bool:
        """Whether no chain ran away."""
        return bool(np.isfinite(self.trace).all())

    @property
    def settled(self) -> bool:
        """Whether the two halves of what is kept agree: within a fifth, or within their scatter."""
        if not self.finite:
            return False
        first, second = np.array_split(self.trace[:, -self.kept :].mean(0), 2)
        scatter = math.sqrt((first.var() + second.var()) / 2)
        return bool(abs(second.mean() - first.mean()) <= max(DRIFT * abs(self.value), scatter))

    @property
    def usable(self) -> bool:
        """Finite, settled and not below 0."""
        return self.finite and self.settled and self.value > 0

    def _by_chain(self) -> np.ndarray:
        return self.trace[:, -self.kept :].mean(1)


@dataclass(frozen=True)
class LearningCoefficient:
    """An estimate with what it rests on. ``verdict`` says whether it can be trusted."""

    value: float
    sd: float
    step_size: float
    loss: float
    n: int
    sweep: tuple[Chains, ...]
    verdict: str
    trusted: bool
    settings: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One row a step size."""
        return [
            {
                "step size": f"{chains.step_size:.0e}",
                "estimate": chains.value,
                "sd over chains": chains.sd,
                "chains": "diverged"
                if not chains.finite
                else "settled"
                if chains.settled
                else "still moving",
                "chosen": chains.step_size == self.step_size,
            }
            for chains in self.sweep
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything, traces included, as JSON can hold it."""
        return {
            "value": self.value,
            "sd": self.sd,
            "step_size": self.step_size,
            "loss": self.loss,
            "n": self.n,
            "verdict": self.verdict,
            "trusted": self.trusted,
            "settings": self.settings,
            "sweep": self.rows(),
            "traces": {f"{c.step_size:g}": c.trace.round(4).tolist() for c in self.sweep},
        }

    def plot(self) -> "Figure":
        """The traces, one panel a step size."""
        from microtome.dynamics.before_after_plots import trace_figure

        return trace_figure({f"step size {c.step_size:.0e}: {c.value:.3g}": c.trace for c in self.sweep})


def learning_coefficient(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss = F.cross_entropy,
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
    chains: int = 2,
    draws: int = 200,
    localization: float = LOCALIZATION,
    batch_size: int | None = None,
    seed: int = 0,
) -> LearningCoefficient:
    """Estimate at ``model``'s present weights, which stay as they are, for each step size of the sweep.

    ``loss(model(inputs), labels)`` is a mean over the ``n`` rows. Each chain takes ``draws`` SGLD steps
    ``w += -e/2 (n beta grad L(w) + localization (w - w*)) + N(0, e)`` from ``w*``; the second half counts.
    ``batch_size`` (default: at most 256 rows): rows of each step, drawn anew; ``L(w) - L(w*)`` is over the
    same rows, which takes the batch's noise out.

    The estimate depends on the step size, by orders of magnitude where it is too small to reach equilibrium:
    the headline is where two neighbouring step sizes agree best, else the largest one whose chains settle,
    and ``verdict`` says which. Raises ``MicrotomeError`` for labels that do not fit, a loss that is not one
    finite number, and fewer than 2 rows.
    """
    n = len(inputs)
    if n < 2 or len(labels) != n:
        raise MicrotomeError(f"labels: {len(labels)} for {n} rows; give 2 rows or more and one label each")
    if chains < 1 or draws < 4:
        raise bad_value(
            "draws", draws, f"with {chains} chains too few to average", "give 1 chain and 4 draws"
        )
    if not step_sizes or not all(0 < size < math.inf for size in step_sizes):
        raise bad_value("step_sizes", list(step_sizes), "not positive numbers", "give some like 1e-4")
    batch = min(n, batch_size or MOST_AT_ONCE)
    work = copy.deepcopy(model).eval()
    start = [p.detach().clone() for p in work.parameters() if p.requires_grad]
    if not start:
        raise MicrotomeError("model: has no parameters that learn; unfreeze those to be measured")
    initial = _finite(loss(work(inputs), labels))
    sweep = []
    for size in sorted(step_sizes):
        traces = [
            _chain(work, start, (inputs, labels), loss, size, draws, localization, batch, seed, chain)
            for chain in range(chains)
        ]
        sweep.append(Chains(size, np.array(traces), draws - draws // 2))
    chosen, verdict, trusted = judge(sweep)
    return LearningCoefficient(
        chosen.value,
        chosen.sd,
        chosen.step_size,
        initial,
        n,
        tuple(sweep),
        verdict,
        trusted,
        {"chains": chains, "draws": draws, "localization": localization, "batch_size": batch, "seed": seed},
    )


def judge(sweep: Sequence[Chains]) -> tuple[Chains, str, bool]:
    """The chains to believe, a sentence, and whether to."""
    pairs = [(a, b) for a, b in pairwise(sweep) if a.usable and b.usable]
    if pairs:
        a, b = min(pairs, key=lambda pair: _apart(*pair))
        if _apart(a, b) <= AGREES:
            return b, f"step sizes {a.step_size:.0e} and {b.step_size:.0e} agree", True
    usable = [chains for chains in sweep if chains.usable]
    if usable:
        values = [chains.value for chains in sweep if chains.finite]
        return (
            usable[-1],
            f"depends on the step size: {min(values):.3g} to {max(values):.3g} over the sweep; compare states"
            " at one step size only",
            False,
        )
    finite = [chains for chains in sweep if chains.finite] or list(sweep)
    return finite[-1], "no step size gave settled chains; sample longer, or other step sizes", False


def _apart(a: Chains, b: Chains) -> float:
    return abs(a.value - b.value) / max(a.value, b.value)


def _chain(
    model: nn.Module,
    start: Sequence[Tensor],
    data: tuple[Tensor, Tensor],
    loss: Loss,
    size: float,
    draws: int,
    localization: float,
    batch: int,
    seed: int,
    chain: int,
) -> Float[np.ndarray, " draws"]:
    """One chain's draws; infinite from the step on at which it ran away."""
    inputs, labels = data
    n = len(inputs)
    weight = n / math.log(n)
    most = BEYOND * sum(p.numel() for p in start) / 2
    base: float | None = None
    parameters = [p for p in model.parameters() if p.requires_grad]
    noise = generator(seed, start[0].device, f"noise/{chain}")
    rows = generator(seed, stream=f"rows/{chain}")
    trace = np.full(draws, np.inf)
    try:
        for draw in range(draws):
            chosen = slice(None) if batch == n else torch.randperm(n, generator=rows)[:batch]
            if base is None or batch < n:
                base = _value_at(model, parameters, start, inputs[chosen], labels[chosen], loss)
            now = loss(model(inputs[chosen]), labels[chosen])
            above = weight * (float(now.detach()) - base)
            if not above <= most:  # NaN too
                break
            trace[draw] = above
            gradients = torch.autograd.grad(now, parameters, allow_unused=True)
            with torch.no_grad():
                for p, p0, g in zip(parameters, start, gradients, strict=True):
                    drift = localization * (p - p0) + (0.0 if g is None else weight * g)
                    step = torch.randn(p.shape, generator=noise, device=p.device, dtype=p.dtype)
                    p.add_(drift, alpha=-size / 2).add_(step, alpha=math.sqrt(size))
    finally:
        _set(parameters, start)
    return trace


def _value_at(
    model: nn.Module,
    parameters: Sequence[Tensor],
    start: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
) -> float:
    here = [p.detach().clone() for p in parameters]
    _set(parameters, start)
    with torch.no_grad():
        value = float(loss(model(inputs), labels))
    _set(parameters, here)
    return value


def _set(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)


def _finite(value: Tensor) -> float:
    if value.numel() != 1 or not torch.isfinite(value).all():
        raise MicrotomeError("loss: is not one finite number at the given weights; give a mean over the rows")
    return float(value.detach())
