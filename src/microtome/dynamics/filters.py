"""Filters and hidden units before and after: how far each turned, and how unlike each other they are."""

from collections.abc import Mapping
from typing import Any

from microtome.measures.plain_arrays import as_numpy
from microtome.measures.weight_change import differentiation, unit_cosines


def compare_filters(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every weight of two axes or more ``[out, ...]``, by parameter name.

    ``kind`` (``filter`` for convolutions, ``unit`` otherwise), ``units``, ``cosine_mean`` and ``cosine_min``
    of each unit with itself later, and ``differentiation_before`` / ``_after``: 1 minus the mean absolute
    cosine between units, 0 for copies of one, ``differentiation_chance`` for random directions.
    ``effective_units_before`` / ``_after`` count how many directions the units really fill.
    """
    found = {}
    for name, tensor in before.items():
        x, y = as_numpy(tensor), as_numpy(after[name])
        if x.ndim < 2 or len(x) < 2:
            continue
        cosines = unit_cosines(x, y)
        spread = [differentiation(values) for values in (x, y)]
        found[name] = {
            "kind": "filter" if x.ndim > 2 else "unit",
            "units": len(x),
            "cosine_mean": float(cosines.mean()),
            "cosine_min": float(cosines.min()),
            "differentiation_before": 1 - spread[0]["mean_abs_cosine"],
            "differentiation_after": 1 - spread[1]["mean_abs_cosine"],
            "differentiation_chance": 1 - spread[0]["chance"],
            "effective_units_before": spread[0]["effective_units"],
            "effective_units_after": spread[1]["effective_units"],
        }
    return found
