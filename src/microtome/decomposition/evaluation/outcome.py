"""Measurements as they are reported and stored: numbers with margins, and arrays."""

import numpy as np

from microtome.decomposition.evaluation.checks import margins_of
from microtome.decomposition.evaluation.measured import Measured
from microtome.decomposition.evaluation.series import Series, estimate

Values = dict[str, list[float]]
Margins = dict[str, list[float] | None]


def numbers_of(m: Measured) -> tuple[Values, Margins]:
    """Every number by name, one a seed, and half its 95 % interval over batches; shares recovered too."""
    values: Values = {n: found.tolist() for n, found in m.fixed.items() if not n.startswith("steps")}
    margins: Margins = dict.fromkeys(values)
    for name, series in m.series.items():
        _add(values, margins, name, estimate(lambda mean: mean, series), series)
    for masking in recovered_maskings(m):
        name = f"recovered/{masking}"
        _add(values, margins, name, m.share_recovered(masking), m.series[f"{m.quality}/{masking}"])
    return values, margins


def recovered_maskings(m: Measured) -> list[str]:
    """The maskings of which a share recovered can be told."""
    start = f"{m.quality}/"
    if not m.has(f"{start}ablated"):
        return []
    names = [name.removeprefix(start) for name in m.series if name.startswith(start)]
    return [name for name in names if name not in ("target", "ablated")]


def arrays_of(m: Measured) -> dict[str, np.ndarray]:
    """What pictures are drawn from, and the numbers of every batch."""
    arrays = {**m.arrays, **{f"series/{name}": series.values for name, series in m.series.items()}}
    arrays |= {f"fixed/{name}": found for name, found in m.fixed.items()}
    arrays |= {f"components/{site}": np.array(count) for site, count in m.components.items()}
    patterns = {name: kind for name, kind in m.facts.items() if name.startswith("identity/")}
    return arrays | {f"pattern/{n.removeprefix('identity/')}": np.array(kind) for n, kind in patterns.items()}


def _add(
    values: Values,
    margins: Margins,
    name: str,
    found: tuple[np.ndarray, np.ndarray | None],
    series: Series,
) -> None:
    values[name] = found[0].tolist()
    half = margins_of(found[1], len(series))
    margins[name] = None if half is None else list(half)
