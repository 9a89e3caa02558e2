"""Errors to the true labels by how many features are on (APD paper's table of losses, ``tms_mse``)."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.data.generation import EXACT_COUNTS
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.interpret.labels import monosemantic
from microtome.decomposition.interpret.selection import own_masks, per_sample_masks
from microtome.decomposition.interpret.subject import Subject

TRAINING = "training distribution"
MOST = 4


def label_errors(s: Subject) -> dict[str, np.ndarray]:
    """Mean squared errors ``[K, kinds]`` of the target, the decomposition and the monosemantic baseline.

    On inputs as in training (those without any feature on left out) and with exactly 1 to 4 features on. The
    decomposition runs as ``own_masks`` say on the former; with exactly k on, APD runs its top k per input.
    """
    assert isinstance(s.data, SparseFeatures) and s.labels is not None
    kinds = [TRAINING]
    columns = [_errors(s, s.inputs(TRAINING), None)]
    for name, count in EXACT_COUNTS.items():
        if count > min(MOST, s.n_features):
            continue
        source = replace(s.data, data_generation_type=name, synced_inputs=None)
        x = source.batch(s.config.n_samples, s.draws(name), n_instances=s.d.n_instances)
        kinds.append(f"exactly {count} on")
        columns.append(_errors(s, x.to(s.device), count))
    models = columns[0]
    arrays = {name: np.stack([column[name] for column in columns], axis=1) for name in models}
    return {**arrays, "kinds": np.array(kinds)}


def _errors(s: Subject, x: Float[Tensor, "K B n"], count: int | None) -> dict[str, Float[np.ndarray, " K"]]:
    assert s.labels is not None
    masks = own_masks(s, x) if count is None else per_sample_masks(s, x, count)
    outputs = {
        "target": s.target(x),
        "decomposition": s.decomposed(x, masks),
        "monosemantic": monosemantic(s.d, x, s.labels),
    }
    truth = s.labels(x)
    return {name: mean_error(out, truth, x) for name, out in outputs.items()}


def mean_error(
    output: Float[Tensor, "K B n"], truth: Float[Tensor, "K B n"], x: Float[Tensor, "K B n"]
) -> Float[np.ndarray, " K"]:
    """Mean squared error over the inputs that have a feature on; nan when none has."""
    on = (x != 0).any(dim=-1).to(output.dtype)
    per_input = (output - truth).square().mean(dim=-1)
    return ((per_input * on).sum(dim=1) / on.sum(dim=1)).cpu().double().numpy()


def representation(s: Subject, value: float = 0.75) -> dict[str, np.ndarray]:
    """Output i when only feature i is on at ``value``, ``[K, n]``: of the target, of all components together,
    and of the components that the method turns on. Source: the SPD paper's ``train_tms``."""
    x = s.one_hot(value)
    outputs = {
        "target": s.target(x),
        "all_components": s.decomposed(x),
        "decomposition": s.decomposed(x, per_sample_masks(s, x, 1)),
    }
    own = {name: torch.diagonal(out, dim1=1, dim2=2).cpu().numpy() for name, out in outputs.items()}
    return {**own, "value": np.array(value)}
