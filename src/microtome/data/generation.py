"""Kinds of synthetic inputs, and which settings go together. Imports no torch."""

from collections.abc import Sequence
from typing import Literal, get_args

from microtome.core.errors import bad_value

DataGenerationType = Literal[
    "exactly_one_active",
    "exactly_two_active",
    "exactly_three_active",
    "exactly_four_active",
    "exactly_five_active",
    "at_least_zero_active",
]
EXACT_COUNTS: dict[str, int] = {
    name: count for count, name in enumerate(get_args(DataGenerationType), 1) if name.startswith("exactly")
}


def check_generation(kind: str, n_features: int, synced_inputs: Sequence[Sequence[int]] | None) -> None:
    """Raise MicrotomeError for an unknown kind, too few features, or groups that overlap or cannot hold."""
    if kind not in get_args(DataGenerationType):
        known = ", ".join(get_args(DataGenerationType))
        raise bad_value("data_generation_type", kind, "unknown", f"use one of {known}")
    if EXACT_COUNTS.get(kind, 0) > n_features:
        raise bad_value("data_generation_type", kind, f"only {n_features} features", "ask for fewer")
    if synced_inputs is None:
        return
    groups = [list(group) for group in synced_inputs]
    members = [member for group in groups for member in group]
    if len(members) != len(set(members)):
        raise bad_value("synced_inputs", groups, "a feature is in two groups", "name each feature once")
    if any(not 0 <= member < n_features for member in members):
        raise bad_value("synced_inputs", groups, "no such feature", f"use 0 to {n_features - 1}")
    if kind != "at_least_zero_active":
        raise bad_value("synced_inputs", groups, f"cannot hold with {kind}", "use at_least_zero_active")
