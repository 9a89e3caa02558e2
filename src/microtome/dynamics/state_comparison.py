"""Two kept states of a network against each other: weights, filters, activations and attention on a probe."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.dynamics.filters import compare_filters
from microtome.dynamics.heads import compare_heads
from microtome.dynamics.probing import Probed, run_probe
from microtome.dynamics.run import DynamicsRun
from microtome.measures.activations import activation_sparsity, class_information
from microtome.measures.representation_similarity import debiased_cka, procrustes_distance, subspace_overlap
from microtome.measures.weight_change import weight_change_magnitude

MOST_ROWS = 512  # of activations: similarities need a matrix of rows by rows
DIRECTIONS = 10  # of the subspaces that are compared
FEWEST_ROWS = 4


def compare_kept(
    runs: tuple[DynamicsRun, DynamicsRun],
    steps: tuple[int, int],
    model: nn.Module | None,
    notes: list[str],
) -> dict[str, Any]:
    """``weights`` and ``filters``; of a known network ``probe``, ``representations``, ``attention`` too."""
    states = [run.checkpoint(step) for run, step in zip(runs, steps, strict=True)]
    found = compare_weights(states[0], states[1])
    network = model if model is not None else runs[0].model()
    if network is None:
        notes.append("the network is not known, only its weights; give model= for activations and attention")
        return found
    probe = runs[0].probe()
    if not probe:
        notes.append("no probe was stored, so that activations and attention cannot be compared")
        return found
    network = copy.deepcopy(network)
    seen = [run_probe(network, state, probe, runs[0].layers) for state in states]
    return found | compare_probed(seen[0], seen[1], probe.get("labels"))


def compare_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Any]:
    """``weights``: each parameter's change; ``filters``: each matrix's output units.

    Buffers of whole numbers (batch counters) are left out. Raises ``MicrotomeError`` for states of two
    architectures.
    """
    if set(before) != set(after):
        only = sorted(set(before) ^ set(after))
        raise MicrotomeError(f"{only[0]}: in one of the two states only; compare states of one architecture")
    names = [name for name, tensor in before.items() if tensor.is_floating_point()]
    for name in names:
        if before[name].shape != after[name].shape:
            raise MicrotomeError(
                f"{name}: shapes {list(before[name].shape)} and {list(after[name].shape)};"
                " compare states of one architecture"
            )
    return {
        "weights": {name: weight_change_magnitude(before[name], after[name]) for name in names},
        "filters": compare_filters(
            {name: before[name] for name in names}, {name: after[name] for name in names}
        ),
    }


def compare_probed(before: Probed, after: Probed, labels: Tensor | None) -> dict[str, Any]:
    """``probe`` (loss, accuracy), ``representations`` by layer, ``attention`` by module."""
    found: dict[str, Any] = {
        "probe": {
            f"{name}_{word}": getattr(seen, name)
            for name in ("loss", "accuracy")
            for word, seen in (("before", before), ("after", after))
        }
    }
    found["representations"] = {
        layer: compare_activations(before.activations[layer], after.activations[layer], labels)
        for layer in before.activations
        if layer in after.activations
    }
    found["attention"] = compare_heads(before.attention, after.attention)
    return found


def compare_activations(before: Tensor, after: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """Two matrices of activations ``[n, d]`` on the same inputs.

    ``cka`` (debiased), ``procrustes`` (0 same, 1 unrelated), ``subspace_overlap`` of the first 10 directions;
    ``sparsity_*``: share below a tenth of the root mean square; ``selectivity_*``: mean share of a unit's
    variance that the class explains beyond chance, where labels fit the rows.
    """
    found = {
        f"sparsity_{word}": activation_sparsity(x, relative=True)
        for word, x in (("before", before), ("after", after))
    }
    classes = _row_classes(labels, len(before))
    if classes is not None:
        information = [_information(x, classes) for x in (before, after)]
        found |= {"selectivity_before": information[0], "selectivity_after": information[1]}
    pair = [x.detach().double().cpu().numpy() for x in (before, after)]
    if len(before) < FEWEST_ROWS or not all(np.isfinite(x).all() for x in pair):
        return found | dict.fromkeys(("cka", "procrustes", "subspace_overlap"), float("nan"))
    if len(before) > MOST_ROWS:
        kept = np.linspace(0, len(before) - 1, MOST_ROWS).round().astype(int)
        pair = [x[kept] for x in pair]
    return found | {
        "cka": debiased_cka(*pair),
        "procrustes": procrustes_distance(*pair),
        "subspace_overlap": subspace_overlap(*pair, k=DIRECTIONS),
    }


def _row_classes(labels: Tensor | None, rows: int) -> Tensor | None:
    """The class of every row: one label a row, or one a sample whose positions are rows; else None."""
    if labels is None or labels.is_floating_point() or not len(labels) or rows % labels.numel():
        return None
    return labels.flatten().repeat_interleave(rows // labels.numel())


def _information(x: Tensor, labels: Tensor) -> float:
    counted = (labels >= 0).to(x.device)  # PyTorch's -100: no class, as in the loss
    x, labels = x[counted], labels.to(x.device)[counted]
    classes = len(labels.unique())
    if classes < 2 or len(labels) <= classes:
        return float("nan")
    return float(np.nanmean(class_information(x, labels)))
