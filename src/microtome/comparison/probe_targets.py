"""Probing any matrix of activations for any targets: classes, several labels at once, real values."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from microtome.comparison.part import Row
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_lda import nested_lda
from microtome.comparison.probe_results import mean_intervals
from microtome.comparison.probe_ridge import nested_ridge
from microtome.comparison.probe_spectrum import FoldedRows, coordinates
from microtome.comparison.probe_tasks import permuted, stratified_folds
from microtome.comparison.statistics import permutation_p
from microtome.core.errors import bad_value


def probe_targets(
    rows: Float[np.ndarray, "n d"],
    targets: Mapping[str, np.ndarray],
    settings: ProbeConfig | None = None,
    seed: int = 0,
) -> list[Row]:
    """Linear probes of ``rows`` for every target, all on one set of folds and eigen-decompositions.

    Integers or words ``[n]`` are classes (accuracy); booleans ``[n, k]`` are k labels of which any may hold
    (accuracy, one row a label); real numbers ``[n]`` or ``[n, k]`` are predicted by ridge regression (R2,
    one row a column). Each row has the mean under permuted targets and a p-value against them. Raises
    ``MicrotomeError`` for targets of another length, with missing values, or with a class too small.
    """
    settings = settings or ProbeConfig()
    coded = {name: _coded(name, np.asarray(values), len(rows), settings) for name, values in targets.items()}
    classes = [column for kind, columns in coded.values() if kind != "real" for column in columns]
    folds = stratified_folds(classes or [np.zeros(len(rows), dtype=np.int64)], settings.folds, seed)
    folded = FoldedRows(coordinates(np.asarray(rows, dtype=float), settings.max_dimensions), folds)
    found: list[Row] = []
    for name, (kind, columns) in coded.items():
        for i, column in enumerate(columns):
            label = name if len(columns) == 1 else f"{name} {i}"
            null = permuted(column, settings.permutations, seed, f"permutations {label}")
            asked = np.concatenate([column[None], null])
            found.append(
                _real(folded, asked, label) if kind == "real" else _class(folded, asked, label, settings)
            )
    return found


def _coded(name: str, values: np.ndarray, n: int, settings: ProbeConfig) -> tuple[str, list[np.ndarray]]:
    """``classes``, ``labels`` or ``real``, and one array of numbers a column."""
    if len(values) != n:
        raise bad_value(name, f"{len(values)} values", f"for {n} rows", "give one target a row")
    columns = [values] if values.ndim == 1 else list(values.T)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise bad_value(name, "NaN", "is no target", "leave out rows without one")
        return "real", [column.astype(float) for column in columns]
    coded = []
    for column in columns:
        classes, numbers, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(classes) < 2 or counts.min() < settings.folds:
            problem = f"{len(classes)} classes, the smallest of {counts.min()} rows"
            raise bad_value(
                name, problem, "cannot be probed", f"give classes of {settings.folds} rows or more"
            )
        coded.append(numbers.astype(np.int64))
    return ("classes" if values.ndim == 1 else "labels"), coded


def _class(folded: FoldedRows, asked: np.ndarray, label: str, settings: ProbeConfig) -> Row:
    found = nested_lda(folded, asked, int(asked.max()) + 1, settings.shrinkages)
    ((mean, low, high),) = mean_intervals(found.correct[:1].astype(float)[None])
    null = found.accuracy[1:]
    p = permutation_p(mean, null, sides=1)
    return Row(
        "probes",
        "linear accuracy",
        mean,
        label=label,
        low=low,
        high=high,
        null=float(null.mean()),
        n=asked.shape[1],
        p=p,
    )


def _real(folded: FoldedRows, asked: np.ndarray, label: str) -> Row:
    r2 = nested_ridge(folded, asked).r2
    p = permutation_p(float(r2[0]), r2[1:], sides=1)
    value, null = float(r2[0]), float(r2[1:].mean())
    return Row("probes", "linear R2", value, label=label, null=null, n=asked.shape[1], p=p)
