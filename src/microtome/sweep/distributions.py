"""From a number between 0 and 1 to a value of a parameter, and the values a grid takes.

Every distribution is sampled through its quantile function, as W&B does: a uniform number gives a random
draw, and a Bayesian search can work on the unit interval whatever the distribution is.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from scipy import special

from microtome.core.errors import bad_value
from microtome.sweep.parameters import Parameter

TINY = 1e-15  # the normal distribution is infinite at 0 and 1


def quantile(parameter: Parameter, u: float) -> Any:
    """The value below which a share ``u`` (0 to 1) of the distribution lies, quantised where it has a q."""
    kind = parameter.kind
    if kind == "constant":
        return parameter.value
    if kind.startswith("categorical"):
        values = parameter.values or ()
        edges = np.cumsum(parameter.probabilities or [1 / len(values)] * len(values))
        # Rounding may leave the last edge just below 1.
        return values[min(int(np.searchsorted(edges, u, side="right")), len(values) - 1)]
    if kind == "int_uniform":
        low, high = int(parameter.min or 0), int(parameter.max or 0)
        return min(low + math.floor(u * (high - low + 1)), high)
    exact = float(_QUANTILES[kind.removeprefix("q_")](parameter, u))
    return quantise(exact, 1 if parameter.q is None else parameter.q) if kind.startswith("q_") else exact


def quantise(value: float, q: int | float) -> int | float:
    """The multiple of ``q`` nearest to a value (halves to the even one); whole numbers for a whole ``q``."""
    steps = round(value / q)
    # In decimals, so that three steps of 0.1 are 0.3 and not 0.30000000000000004.
    return steps * q if isinstance(q, int) else float(steps * Decimal(repr(q)))


def grid_values(name: str, parameter: Parameter) -> list[Any]:
    """What a grid tries. Raises ``MicrotomeError`` for a distribution without a finite list of values.

    ``q_uniform`` takes min, min + q, ... up to and including max.
    """
    kind = parameter.kind
    if kind == "constant":
        return [parameter.value]
    if kind.startswith("categorical"):
        return list(parameter.values or ())
    if kind == "int_uniform":
        return list(range(int(parameter.min or 0), int(parameter.max or 0) + 1))
    if kind == "q_uniform":
        low, high, q = (
            Decimal(repr(x)) for x in _bounds(parameter, 1 if parameter.q is None else parameter.q)
        )
        points = [low + i * q for i in range(int((high - low) / q) + 1)]
        whole = all(isinstance(x, int) for x in (parameter.min, parameter.q or 1))
        return [int(point) if whole else float(point) for point in points]
    raise bad_value(
        f"parameters.{name}.distribution",
        kind,
        "a grid cannot try all of it",
        "list values, or use method random",
    )


def _bounds(parameter: Parameter, *more: Any) -> tuple[Any, ...]:
    assert parameter.min is not None and parameter.max is not None
    return (parameter.min, parameter.max, *more)


def _uniform(parameter: Parameter, u: float) -> float:
    low, high = _bounds(parameter)
    return low + u * (high - low)


def _log_uniform(parameter: Parameter, u: float) -> float:
    return math.exp(_uniform(parameter, u))


def _log_uniform_values(parameter: Parameter, u: float) -> float:
    low, high = _bounds(parameter)
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    return float(min(max(value, low), high))


def _inv_log_uniform(parameter: Parameter, u: float) -> float:
    return math.exp(-_uniform(parameter, 1 - u))


def _normal(parameter: Parameter, u: float) -> float:
    mu = 0.0 if parameter.mu is None else parameter.mu
    sigma = 1.0 if parameter.sigma is None else parameter.sigma
    return mu + sigma * float(special.ndtri(min(max(u, TINY), 1 - TINY)))


def _log_normal(parameter: Parameter, u: float) -> float:
    return math.exp(_normal(parameter, u))


def _beta(parameter: Parameter, u: float) -> float:
    a = 1.0 if parameter.a is None else parameter.a
    b = 1.0 if parameter.b is None else parameter.b
    return float(special.betaincinv(a, b, u))


_QUANTILES: dict[str, Callable[[Parameter, float], float]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "log_uniform_values": _log_uniform_values,
    "inv_log_uniform": _inv_log_uniform,
    # 1/X is log-uniform between 1/max and 1/min: X itself is log-uniform between min and max.
    "inv_log_uniform_values": _log_uniform_values,
    "normal": _normal,
    "log_normal": _log_normal,
    "beta": _beta,
}
