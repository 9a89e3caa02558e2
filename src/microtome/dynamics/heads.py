"""Attention heads before and after: focus, where they look, how they part ways. Patterns ``[B, H, Q, K]``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from microtome.measures.attention import (
    attention_probabilities,
    attention_specialization,
    head_divergence,
    head_diversity,
    head_entropies,
    head_habits,
)

MOST_SAMPLES = 64  # of the probe: head statistics are means over them


def compare_heads(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every attending module that both have, by name.

    ``before`` and ``after`` each hold the specialisation (entropies in nats), ``head_entropies``,
    ``diversity`` (mean Jensen-Shannon divergence between heads, share of log 2) and the habits of every head.
    ``head_divergence`` says how far each head's pattern moved (0 the same, 1 other keys altogether).
    ``uniform`` is the entropy of even attention over all keys.
    """
    found = {}
    for name in before:
        if name not in after:
            continue
        p, q = (
            attention_probabilities(patterns[name][:MOST_SAMPLES], "probabilities")
            for patterns in (before, after)
        )
        if p.shape != q.shape:
            continue
        found[name] = {
            "uniform": float(np.log(p.shape[-1])),
            "before": describe_heads(p),
            "after": describe_heads(q),
            "head_divergence": head_divergence(p, q).tolist(),
        }
    return found


def describe_heads(p: np.ndarray) -> dict[str, Any]:
    """Specialisation, entropy, diversity and habits of the heads of one module; NaN rows look nowhere."""
    filled = np.nan_to_num(p)
    return {
        **attention_specialization(filled, "probabilities"),
        "head_entropies": head_entropies(filled, "probabilities").tolist(),
        "diversity": head_diversity(p),
        "habits": {name: values.tolist() for name, values in head_habits(p).items()},
    }
