"""The kinds of the responses to one feature, in words short enough for a picture or a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from microtome.magnitude.responses import classify_importances, classify_responses
from microtome.magnitude.result import MagnitudeSweep

NAMED = 2  # so many active components are named, more are counted


def sides(magnitudes: Float[np.ndarray, " S"]) -> Iterator[tuple[int, Int[np.ndarray, " s"]]]:
    """The signs that were swept, and the steps of each from 0 outwards; a side needs two steps."""
    for sign in (1, -1):
        steps = np.flatnonzero(magnitudes * sign >= 0)
        steps = steps if sign > 0 else steps[::-1]
        if len(steps) >= 2:
            yield sign, steps


def in_words(counts: dict[str, int]) -> str:
    """``12 linear, 38 silent``."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def response_words(row: dict[str, Any]) -> str:
    """One response in words: ``output 3 linear, slope 1.52 (R2 1.000)``."""
    name = f"{str(row['family']).removesuffix('s')} {row['index']} {row['kind']}"
    details = {
        "linear": f", slope {row['slope']:.3g} (R2 {row['r2']:.3f})",
        "curved": f", slope {row['slope']:.3g} (R2 {row['r2']:.3f})",
        "threshold": f" from {row['onset']:.3g}",
        "saturating": f" from {row['knee']:.3g}, last slope {row['plateau_ratio']:.0%} of the steepest",
        "non-monotonic": f", turns at {row['turning_point']:.3g}",
    }
    return name + details.get(row["kind"], "")


def response_kinds(
    magnitudes: Float[np.ndarray, " S"], values: Float[np.ndarray, "S width"]
) -> tuple[str, list[str]]:
    """How many curves are of each kind, in words; and the kind of each, both sides' where they differ."""
    scale = np.full(values.shape[1], np.ptp(values, axis=0).max())
    found = [
        (sign, classify_responses(np.abs(magnitudes[steps]), values[steps].T, scale).kind.tolist())
        for sign, steps in sides(magnitudes)
    ]
    return _told([(sign, _counted(kinds)) for sign, kinds in found]), _each(found)


def importance_kinds(
    magnitudes: Float[np.ndarray, " S"], values: Float[np.ndarray, "S C"], threshold: float
) -> tuple[str, list[str]]:
    """The same for causal importances; few active ones are named with where they begin."""
    found, told = [], []
    for sign, steps in sides(magnitudes):
        importances = classify_importances(np.abs(magnitudes[steps]), values[steps].T, threshold)
        kinds = importances.kind.tolist()
        active = [c for c, kind in enumerate(kinds) if kind != "never active"]
        few = [f"component {c} {kinds[c]} from {sign * importances.onset[c] + 0.0:.2g}" for c in active]
        told.append((sign, ", ".join(few) if len(few) <= NAMED else _counted(kinds, but="never active")))
        found.append((sign, kinds))
    return _told([(sign, words or "none active") for sign, words in told]), _each(found)


def output_words(sweep: MagnitudeSweep, instance: int, position: int) -> str:
    """The response of the output of the feature's own number; where there is none, of all outputs."""
    values, feature = sweep.outputs[instance, position], int(sweep.features[position])
    if feature >= values.shape[1]:
        return response_kinds(sweep.magnitudes, values)[0]
    told = []
    scale = np.full(1, np.ptp(values, axis=0).max())
    for sign, steps in sides(sweep.magnitudes):
        found = classify_responses(np.abs(sweep.magnitudes[steps]), values[steps, feature][None], scale)
        row: dict[str, Any] = {name: numbers[0] for name, numbers in found.numbers().items()}
        for name in ("slope", "onset", "knee", "turning_point"):
            row[name] = sign * row[name] + 0.0
        told.append((sign, response_words({**row, "family": "outputs", "index": feature})))
    return _told(told)


def _told(words: Sequence[tuple[int, str]]) -> str:
    """Words about each side that was swept; one-sided sweeps need no name for theirs."""
    if len(words) < 2:
        return "".join(said for _, said in words)
    return "\n".join(f"{'above' if sign > 0 else 'below'} 0: {said}" for sign, said in words)


def _each(found: Sequence[tuple[int, list[str]]]) -> list[str]:
    """One kind a curve; two where the sides differ, the negative one first, as on the axis."""
    kinds = [kinds for _, kinds in reversed(found)]
    return [" | ".join(dict.fromkeys(of)) for of in zip(*kinds, strict=True)]


def _counted(kinds: Sequence[str], but: str = "") -> str:
    found, counts = np.unique([kind for kind in kinds if kind != but], return_counts=True)
    ranked = sorted(zip(counts.tolist(), found.tolist(), strict=True), reverse=True)
    return in_words({kind: count for count, kind in ranked})
