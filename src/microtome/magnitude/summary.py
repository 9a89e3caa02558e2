"""The kinds of all responses of a sweep, as a table, as counts and as a few lines of text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from microtome.magnitude.responses import (
    IMPORTANCE_KINDS,
    RESPONSE_KINDS,
    classify_importances,
    classify_responses,
)
from microtome.magnitude.result import MagnitudeSweep
from microtome.magnitude.words import in_words, response_words, sides

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = {
    "outputs": "outputs",
    "post": "neurons",
    "activations": "component activations",
    "lower": "causal importances",
}
# Numbers that are places on the magnitude axis, or slopes along it: the negative side mirrors them.
ALONG_THE_AXIS = ("slope", "onset", "offset", "knee", "turning_point", "peak_position")
FEW = 3
PORTION = 1 << 21  # values classified at a time


def response_frame(sweep: MagnitudeSweep, instance: int, ci_threshold: float) -> "pd.DataFrame":
    """One row a curve and side: feature, side (1 or -1), site, family, index, kind and the kind's numbers.

    Neurons are classified after their nonlinearity. Numbers that a kind does not have are NaN.
    """
    import pandas as pd

    parts = []
    for name, values in sweep.arrays().items():
        kind, _, site = name.partition("/")
        if kind not in FAMILIES or values.ndim != 4 or not values.shape[-1]:
            continue
        for some in _portions(values.shape[1], values.shape[2] * values.shape[3]):
            curves = np.moveaxis(values[instance, some], 1, -1)  # [F, width, S]
            parts += _classified(sweep, sweep.features[some], site, kind, curves, ci_threshold)
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True) if parts else pd.DataFrame()


def _portions(n_features: int, values_each: int) -> list[slice]:
    """Features a few at a time: classifying holds a dozen numbers in double precision for each value."""
    step = max(1, PORTION // max(1, values_each))
    return [slice(at, at + step) for at in range(0, n_features, step)]


def _classified(
    sweep: MagnitudeSweep,
    features: Int[np.ndarray, " F"],
    site: str,
    kind: str,
    curves: Float[np.ndarray, "F width S"],
    threshold: float,
) -> Iterator[dict[str, Any]]:
    width = curves.shape[1]
    scale = np.broadcast_to(np.ptp(curves, axis=-1).max(-1, keepdims=True), curves.shape[:2])
    for sign, steps in sides(sweep.magnitudes):
        magnitudes, part = np.abs(sweep.magnitudes[steps]), curves[..., steps]
        if kind == "lower":
            found = classify_importances(magnitudes, part, threshold)
        else:
            found = classify_responses(magnitudes, part, scale)
        numbers = {name: np.ravel(values) for name, values in found.numbers().items()}
        for name in ALONG_THE_AXIS:
            if name in numbers:
                numbers[name] = sign * numbers[name] + 0.0  # no minus zero
        yield {
            "feature": np.repeat(features, width),
            "side": sign,
            "site": site,
            "family": FAMILIES[kind],
            "index": np.tile(np.arange(width), len(features)),
            **numbers,
        }


def counts_of(frame: Any) -> list[tuple[str, str, str]]:
    """Site, family and how many curves are of each kind, in words."""
    return [(site, family, in_words(kinds)) for site, family, kinds in kind_counts(frame)]


def kind_counts(frame: Any) -> list[tuple[str, str, dict[str, int]]]:
    """Site, family and how many curves are of each kind, over all features and sides."""
    found = []
    for (site, family), part in frame.groupby(["site", "family"], sort=False):  # pyright: ignore[reportGeneralTypeIssues]
        order = IMPORTANCE_KINDS if family == FAMILIES["lower"] else RESPONSE_KINDS
        counts = part["kind"].value_counts()
        found.append((site, family, {kind: int(counts[kind]) for kind in order if kind in counts}))
    return found


def summary_of(sweep: MagnitudeSweep, frame: Any) -> dict[str, Any]:
    """What ``summary.json`` says of a sweep."""
    responses: dict[str, dict[str, dict[str, int]]] = {}
    for site, family, kinds in kind_counts(frame):
        responses.setdefault(site or "network", {})[family] = kinds
    return {
        "method": sweep.method,
        "features": sweep.features.tolist(),
        "sites": list(sweep.sites),
        "left_out": list(sweep.left_out),
        "arrays_bytes": sweep.nbytes,
        "responses": responses,
        "active_components": [_component_row(row) for row in _strongest(frame)],
    }


def _strongest(frame: Any, each: int = 1) -> list[dict[str, Any]]:
    """The components with the largest importances of each feature, side and site, active ones only."""
    active = frame[(frame["family"] == FAMILIES["lower"]) & (frame["kind"] != "never active")]
    if not len(active):
        return []
    ordered = active.sort_values(["maximum", "share"], ascending=False, kind="stable")
    best = ordered.groupby(["feature", "side", "site"], sort=False).head(each)
    return best.sort_index().to_dict("records")


def _component_row(row: dict[str, Any]) -> dict[str, Any]:
    numbers = ("maximum", "onset", "share", "peak_position")
    named = {"feature": row["feature"], "side": row["side"], "site": row["site"], "component": row["index"]}
    return {**named, "kind": row["kind"], **{name: round(float(row[name]), 6) for name in numbers}}


def lines_of(frame: Any) -> list[str]:
    """A short table for the terminal; for few features with what the words rest on."""
    n = frame["feature"].nunique() if len(frame) else 0
    rows = [(site or "network", family, words) for site, family, words in counts_of(frame)]
    if not rows:
        return []
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    over = "" if n == 1 else f" over {n} features"
    lines = [f"Responses{over}:"]
    lines += [f"  {site:<{wide[0]}}  {family:<{wide[1]}}  {words}" for site, family, words in rows]
    if n <= FEW:
        lines += [f"  {said}" for said in _own_outputs(frame)]
        lines += [f"  {_component_line(row)}" for row in _strongest(frame, FEW)]
    return lines


def _own_outputs(frame: Any) -> list[str]:
    own = frame[(frame["family"] == "outputs") & (frame["index"] == frame["feature"])]
    return [f"feature {row['feature']}{_side(row)}: {response_words(row)}" for row in own.to_dict("records")]


def _side(row: dict[str, Any]) -> str:
    return " (negative)" if row["side"] < 0 else ""


def _component_line(row: dict[str, Any]) -> str:
    where = f"feature {row['feature']}{_side(row)}, {row['site']}"
    said = f"component {row['index']} {row['kind']}, importance up to {row['maximum']:.2f}"
    return f"{where}: {said}, active from {row['onset']:.3g} ({row['share']:.0%} of magnitudes)"
