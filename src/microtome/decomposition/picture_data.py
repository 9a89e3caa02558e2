"""From stored arrays to what the pictures show: which components, in which order, under which name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from microtome.measures.causal_importance import permutation_to_identity
from microtome.measures.recovery import best_component


def by_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays stored as ``prefix/<site>``, by site."""
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def join_factors(
    left: Float[np.ndarray, "C d_in m"], right: Float[np.ndarray, "C m d_out"]
) -> Float[np.ndarray, "C d_in d_out"]:
    """The weight of each component, the product of its factors."""
    return left @ right


def best_first(
    components: Float[np.ndarray, "C d_in d_out"],
    most: int,
    like: Float[np.ndarray, "d_in d_out"] | None = None,
    threshold: float = 0.05,
) -> tuple[Int[np.ndarray, " shown"], list[str], str]:
    """The components worth showing, their names, and a sentence about those left out.

    Those with a norm above ``threshold`` times the largest norm, the largest first; with ``like`` in the
    order of the features (its rows) that they match best. At most ``most``.
    """
    norms = np.sqrt(np.square(components).sum(axis=(1, 2)))
    ranked = np.argsort(-norms, kind="stable")
    significant = ranked[norms[ranked] > threshold * max(float(norms.max()), 1e-12)]
    shown = significant[:most]
    if like is not None and len(shown):
        matched = best_component(components[shown], like, min_ratio=threshold)
        strength = np.linalg.norm(components[shown], axis=-1).argmax(axis=1)
        first = [np.flatnonzero(matched == i).min(initial=len(like)) for i in range(len(shown))]
        shown = shown[np.lexsort((strength, first))]
    left_out = ""
    if len(shown) < len(components):
        largest = float(norms[np.setdiff1d(np.arange(len(norms)), shown)].max())
        left_out = f"{len(components) - len(shown)} of {len(components)} components (norm up to "
        left_out += f"{largest:.2g}) are not shown."
    return shown, [str(c) for c in shown], left_out


def crop_to_active(
    importances: Float[np.ndarray, "n C"], threshold: float = 0.05
) -> Int[np.ndarray, " shown"]:
    """Column order closest to the identity, without trailing columns that are never important.

    At least as many columns as rows stay, where there are as many.
    """
    order = permutation_to_identity(importances)
    active = np.flatnonzero(importances[:, order].max(axis=0) > threshold)
    needed = max(int(active.max(initial=-1)) + 1, len(importances))
    return order[: max(needed, 1)]


def shared_order(
    importances: Float[np.ndarray, "K n C"] | None,
    left: Float[np.ndarray, "C d_in m"],
    right: Float[np.ndarray, "C m d_out"],
) -> Int[np.ndarray, " shown"]:
    """Component order of the importance picture; without importances the significant ones by norm."""
    if importances is not None:
        return crop_to_active(importances[0])
    return best_first(join_factors(left, right), 100)[0]


def mlp_layers(sites: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """``layers.i`` to its (mlp_in, mlp_out) sites, where both are there."""
    pairs = {}
    for site in sites:
        if site.endswith(".mlp_in") and (out := site.removesuffix("mlp_in") + "mlp_out") in sites:
            pairs[site.removesuffix(".mlp_in")] = (site, out)
    return pairs


def loss_table(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[Float[np.ndarray, " T"], dict[str, Float[np.ndarray, "T _"]]] | None:
    """Steps and losses ``[T, K]`` by name from the lines of ``metrics.jsonl``; None without losses.

    The total comes first; learning rates, speeds and other numbers that are not one value a seed or no
    loss (``lr``, ``learning_rate``, ``steps_per_second``, what evaluations measure) are left out.
    """
    skipped = {"step", "lr", "learning_rate", "steps_per_second", "seconds"}
    every = dict.fromkeys(key for row in rows for key in row)
    names = [key for key in every if key not in skipped and not key.startswith("eval/")]
    table = {}
    for name in names:
        values = [np.atleast_1d(_numbers(row.get(name))) for row in rows]
        width = max(len(v) for v in values)
        if width and any(np.isfinite(v).any() for v in values):
            table[name] = np.stack([v if len(v) == width else np.full(width, np.nan) for v in values])
    if not table:
        return None
    ordered = sorted(table, key=lambda name: name != "total")
    return np.array([float(row["step"]) for row in rows]), {name: table[name] for name in ordered}


def _numbers(value: Any) -> np.ndarray:
    """A logged value as floats; null is nan, anything that is no number is empty."""
    items = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, int | float) for item in items):
        return np.empty(0)
    return np.array([np.nan if item is None else float(item) for item in items])
