"""Which arrays are computed of which decomposition, and the numbers that are kept beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.interpret.activity import activity
from microtome.decomposition.interpret.feature_losses import losses_in_sweep, losses_in_training
from microtome.decomposition.interpret.label_errors import label_errors, representation
from microtome.decomposition.interpret.responses import feature_responses, response_curves, signal_to_noise
from microtome.decomposition.interpret.scrubbing import ablated_responses, scrubbing
from microtome.decomposition.interpret.subject import Subject

Arrays = dict[str, np.ndarray]
Numbers = dict[str, Any]
MAX_ABLATED = 12


@dataclass(frozen=True)
class Part:
    """One file of results: how it is computed, why it cannot be (empty when it can), what to note of it."""

    compute: Callable[[Subject], Arrays]
    refused: Callable[[Subject], str]
    numbers: Callable[[Arrays], Numbers]


def _toy(s: Subject) -> str:
    return "" if s.toy is not None else "needs a toy model, whose inputs are features"


def _toy_and_labels(s: Subject) -> str:
    return _toy(s) or ("" if s.labels is not None else "the target's labels are not known (no training file)")


def _inputs(s: Subject) -> str:
    return "" if s.data is not None else "the run's inputs are not known; pass data=... in Python"


def _toy_inputs_and_labels(s: Subject) -> str:
    sparse = isinstance(s.data, SparseFeatures)
    return _toy_and_labels(s) or _inputs(s) or ("" if sparse else "inputs are not sparse features")


def _ablations(s: Subject) -> Arrays:
    default = [42 if s.n_features > 42 else 0]
    return ablated_responses(s, s.config.chosen_features(s.n_features, default)[:MAX_ABLATED])


def _means(values: np.ndarray) -> list[float]:
    """Mean over all but the leading axis, without the entries that are not known."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else float("nan") for row in flat]


def _all_means(arrays: Arrays) -> Numbers:
    return {name: _means(value) for name, value in arrays.items()}


def _by_kind(arrays: Arrays) -> Numbers:
    kinds = [str(kind) for kind in arrays["kinds"]]
    models = [name for name in arrays if name != "kinds"]
    return {k: {m: arrays[m][:, i].tolist() for m in models} for i, k in enumerate(kinds)}


def _representation(arrays: Arrays) -> Numbers:
    value = float(arrays["value"])
    return {
        name: [int((np.abs(row - value) < 0.1).sum()) for row in arrays[name]]
        for name in arrays
        if name != "value"
    }


def _activity(arrays: Arrays) -> Numbers:
    found: Numbers = {"components_on": {}, "ever_on": {}}
    for key, value in arrays.items():
        kind, _, site = key.partition("/")
        if kind == "count":
            found["components_on"][site] = _means(value)
        if kind == "frequency":
            found["ever_on"][site] = (value > 0).sum(axis=1).tolist()
    return found


def _ratios(arrays: Arrays) -> Numbers:
    found: Numbers = {}
    for name, values in arrays.items():
        n = values.shape[1]
        off = ~np.eye(n, dtype=bool)
        if name == "equal":
            found["one_feature"] = [float(np.median(np.diag(one))) for one in values]
        if n > 1:
            found[f"two_{name}"] = [float(np.median(one[off])) for one in values]
    return found


def _nothing(arrays: Arrays) -> Numbers:
    del arrays
    return {}


# File in results/ -> part. Numbers of a part go under its name.
PARTS: dict[str, Part] = {
    "label_errors": Part(label_errors, _toy_inputs_and_labels, _by_kind),
    "representation": Part(
        representation,
        lambda s: "" if s.kind == "tms" else "needs a toy model of superposition (TMS)",
        _representation,
    ),
    "activity": Part(activity, _inputs, _activity),
    "scrubbing": Part(scrubbing, _inputs, _all_means),
    "feature_losses": Part(
        lambda s: losses_in_training(s) | losses_in_sweep(s), _toy_inputs_and_labels, _all_means
    ),
    "responses": Part(lambda s: feature_responses(s) | response_curves(s), _toy, _nothing),
    "ablations": Part(_ablations, _toy, _nothing),
    "signal_to_noise": Part(signal_to_noise, _toy, _ratios),
}
