"""Linear probes through one eigen-decomposition a layer and fold, against one fit at a time.

    python benchmarks/probe_cases.py [--small]

The activations are made up but shaped like a small convolutional network's: a falling spectrum and classes
that overlap. A probe is one fit with its held-out prediction. Ours makes 65 for a labelling of a layer, a
nested cross-validation over 5 folds and 6 shrinkages; scikit-learn's logistic regression makes 5, at one
penalty. Everything runs on one thread. CPU milliseconds per probe are compared as ratios; `whole_ratio` sets
our nested cross-validation against its plain one.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_lda import nested_lda
from microtome.comparison.probe_mlp import MLPShape, batched_mlp, mlp_inputs
from microtome.comparison.probe_spectrum import FoldedRows, coordinates
from microtome.comparison.probe_tasks import stratified_folds


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison."""

    images: int
    dimensions: int
    classes: int
    labellings: int
    one_at_a_time: int  # labellings that scikit-learn is timed on
    separation: float


CASES = {
    "few images": Case(200, 1024, 2, 1000, 12, 0.12),
    "alphabets": Case(1260, 1024, 3, 200, 3, 0.12),
    "digits": Case(1797, 256, 10, 100, 2, 0.25),
    "characters": Case(1260, 1024, 63, 20, 1, 0.4),
}
SMALL = {"few images": Case(200, 128, 2, 200, 5, 0.2)}


def made_up(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Activations ``[images, dimensions]`` and labels that can partly be decoded from them."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(case.images) % case.classes)
    spectrum = 1 / np.sqrt(1 + np.arange(case.dimensions))
    rows = random.normal(size=(case.images, case.dimensions))
    rows += case.separation * random.normal(size=(case.classes, case.dimensions))[labels]
    return rows * spectrum, labels


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def linear(case: Case) -> dict[str, float]:
    """Seconds per probe of ours and of scikit-learn's logistic regression, and both accuracies."""
    settings = ProbeConfig()
    rows, labels = made_up(case)
    folds = stratified_folds([labels], settings.folds, 0)
    random = np.random.default_rng(1)
    many = np.stack([labels, *(random.permutation(labels) for _ in range(case.labellings - 1))])
    found: dict[str, Any] = {}

    def ours() -> None:
        x = coordinates(rows, settings.max_dimensions)
        found["ours"] = nested_lda(FoldedRows(x, folds), many, case.classes, settings.shrinkages)

    x = coordinates(rows, settings.max_dimensions).numpy()
    taken = seconds(ours) / case.labellings
    theirs = seconds(lambda: found.update(theirs=[_fits(x, y, folds) for y in many[: case.one_at_a_time]]))
    theirs /= case.one_at_a_time
    pairs = settings.folds * (settings.folds - 1) // 2
    fits = pairs * len(settings.shrinkages) + settings.folds
    return {
        "ours_ms": taken * 1e3 / fits,
        "sklearn_ms": theirs * 1e3 / settings.folds,
        "ratio": theirs / settings.folds * fits / taken,
        "whole_ratio": theirs / taken,
        "accuracy": float(found["ours"].accuracy[0]),
        "sklearn_accuracy": float(found["theirs"][0].mean()),
        "null": float(found["ours"].accuracy[1:].mean()),
    }


def _fits(x: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """scikit-learn's logistic regression, each fold from the others, C = 1 on inputs of unit mean square."""
    from sklearn.linear_model import LogisticRegression

    x, correct = x / np.sqrt(np.square(x).mean()), np.zeros(len(x), dtype=bool)
    for fold in range(folds.max() + 1):
        held = folds == fold
        fitted = LogisticRegression(max_iter=300).fit(x[~held], labels[~held])
        correct[held] = fitted.predict(x[held]) == labels[held]
    return correct


def mlps(layers: int = 24) -> dict[str, float]:
    """Seconds per MLP probe, all layers and folds in one batch against one after the other."""
    case = CASES["few images"]
    rows, labels = made_up(case)
    folds = stratified_folds([labels], 5, 0)
    x = torch.stack([mlp_inputs(coordinates(rows, 256), 64)] * layers)
    batched_mlp(x[:1], labels, folds, 2, MLPShape(steps=5), 0)  # loads what torch loads once

    def alone() -> None:
        for layer in range(layers):
            batched_mlp(x[layer : layer + 1], labels, folds, 2, MLPShape(), 0)

    together = seconds(lambda: batched_mlp(x, labels, folds, 2, MLPShape(), 0)) / layers
    apart = seconds(alone) / layers
    return {"ours_ms": together * 1e3, "one_layer_at_a_time_ms": apart * 1e3, "ratio": apart / together}


def run(small: bool = False) -> dict[str, dict[str, float]]:
    """All cases; called from benchmarks/comparison.py."""
    torch.set_num_threads(1)
    cases = SMALL if small else CASES
    with threadpool_limits(1):
        results = {f"linear probes, {name}": linear(case) for name, case in cases.items()}
        if not small:
            results["MLP probes"] = mlps()
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true")
    for name, numbers in run(parser.parse_args().small).items():
        print(name, json.dumps({key: round(value, 4) for key, value in numbers.items()}))
