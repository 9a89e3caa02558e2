"""How focused attention is, how its heads differ, where they look. Numpy; patterns are ``[B, H, Q, K]``."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax, xlogy

from microtome.core.errors import MicrotomeError, bad_value
from microtome.measures.plain_arrays import as_numpy

ROUNDED = 1e-2  # how far a row of probabilities may be from 1 after a stay in bfloat16
KINDS = ("auto", "probabilities", "logits")
Kind = str  # one of KINDS


def kind_of(weights: Any) -> str:
    """``probabilities`` when nothing is negative and every row sums to 1 (or is all 0), else ``logits``."""
    values = as_numpy(weights)
    if not values.size or not (values >= 0).all():
        return "logits"
    sums = values.sum(-1, dtype=np.float64)
    ones = np.abs(sums - 1) <= ROUNDED
    return "probabilities" if ones.any() and (ones | (sums == 0)).all() else "logits"


def attention_probabilities(weights: Any, kind: Kind = "auto") -> Float[np.ndarray, "*batch Q K"]:
    """Attention whose rows sum to 1, in float64: as given, or by softmax over keys where they are scores.

    ``kind="auto"`` tells the two apart by ``kind_of``. A row without any weight (a query that may look
    nowhere) is NaN. Raises ``MicrotomeError`` for NaN, an unknown kind, and probabilities that are none.
    """
    if kind not in KINDS:
        raise bad_value("kind", kind, "not known", f"choose {', '.join(KINDS)}")
    values = as_numpy(weights).astype(np.float64)
    if values.ndim < 2:
        raise MicrotomeError(
            f"attention of shape {list(values.shape)}: needs queries and keys; give [batch, heads, q, k]"
        )
    if np.isnan(values).any():
        raise MicrotomeError("attention: holds NaN; look at the model, or leave those rows out")
    if kind == "logits" or (kind == "auto" and kind_of(weights) == "logits"):
        empty = (values == -np.inf).all(-1, keepdims=True)
        return np.where(empty, np.nan, softmax(np.where(empty, 0.0, values), axis=-1))
    if (values < 0).any():
        raise bad_value("kind", kind, "some weights are negative", "give kind='logits' for scores")
    sums = values.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(sums > 0, values / np.where(sums > 0, sums, 1.0), np.nan)


def row_entropies(weights: Any, kind: Kind = "auto") -> Float[np.ndarray, "*batch Q"]:
    """``-sum_k p log p`` in nats for each query: 0 looks at one key, ``log K`` at all alike."""
    p = attention_probabilities(weights, kind)
    return np.maximum(-xlogy(p, p).sum(-1), 0.0)


def attention_entropy(weights: Any, kind: Kind = "auto") -> float:
    """Mean entropy in nats over batch, heads and queries. One-hot attention gives 0, uniform ``log K``."""
    return float(_mean(row_entropies(weights, kind)))


def head_entropies(weights: Any, kind: Kind = "auto") -> Float[np.ndarray, " H"]:
    """Mean entropy of each head in nats. Raises ``MicrotomeError`` unless there are four axes."""
    _four_axes(as_numpy(weights))
    rows = row_entropies(weights, kind)
    return np.array([_mean(rows[:, head]) for head in range(rows.shape[1])])


def attention_specialization(weights: Any, kind: Kind = "auto") -> dict[str, float]:
    """How differently focused the heads are; entropies in nats.

    Keys: ``mean_entropy``, ``min_entropy``, ``max_entropy``, ``entropy_std`` (over heads) and
    ``specialization_index`` (largest minus smallest head).
    """
    heads = head_entropies(weights, kind)
    return {
        "mean_entropy": float(heads.mean()),
        "min_entropy": float(heads.min()),
        "max_entropy": float(heads.max()),
        "entropy_std": float(heads.std()),
        "specialization_index": float(heads.max() - heads.min()),
    }


def head_divergence(
    p: Float[np.ndarray, "B H Q K"], q: Float[np.ndarray, "B H Q K"]
) -> Float[np.ndarray, " H"]:
    """Jensen-Shannon divergence between two patterns, mean over batch and queries, as a share of log 2.

    0: head ``h`` looks where it looked before; 1: at wholly other keys.
    """
    middle = (p + q) / 2
    entropy = [-xlogy(x, x).sum(-1) for x in (middle, p, q)]
    rows = np.clip((entropy[0] - (entropy[1] + entropy[2]) / 2) / np.log(2), 0, 1)
    return np.array([_mean(rows[:, head]) for head in range(rows.shape[1])])


def head_diversity(p: Float[np.ndarray, "B H Q K"]) -> float:
    """Mean Jensen-Shannon divergence over pairs of heads, as a share of log 2; 0 for a single head."""
    heads = p.shape[1]
    if heads < 2:
        return 0.0
    pairs = [head_divergence(p[:, [i]], p[:, [j]])[0] for i in range(heads) for j in range(i + 1, heads)]
    return float(np.mean(pairs))


def head_habits(p: Float[np.ndarray, "B H Q K"]) -> dict[str, Float[np.ndarray, " H"]]:
    """Where each head looks: shares of weight on the first key, on itself, on the key before, and distance.

    ``distance`` is the mean of ``|q - k|`` under the pattern. ``self`` and ``previous`` are over queries that
    have such a key.
    """
    queries, keys = p.shape[2:]
    apart = np.abs(np.arange(queries)[:, None] - np.arange(keys)[None, :])
    n = min(queries, keys)
    before = min(queries - 1, keys)
    habits = {
        "first": p[..., 0],
        "self": p[:, :, np.arange(n), np.arange(n)],
        "distance": (p * apart).sum(-1),
    }
    if before > 0:
        habits["previous"] = p[:, :, np.arange(1, before + 1), np.arange(before)]
    return {
        name: np.array([_mean(values[:, head]) for head in range(p.shape[1])])
        for name, values in habits.items()
    }


def _mean(values: np.ndarray) -> float:
    """Without the rows that look nowhere; NaN when none is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _four_axes(values: np.ndarray) -> None:
    if values.ndim != 4:
        raise MicrotomeError(
            f"attention of shape {list(values.shape)}: heads need four axes; give [batch, heads, q, k]"
        )
