"""What a toy model was trained to compute, as far as its files tell."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microtome.core.config import read_yaml
from microtome.core.errors import MicrotomeError
from microtome.data.labels import ResidLabels, label_coefficients
from microtome.decomposition.interpret.subject import Labels
from microtome.decomposition.result import Decomposition
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS


def true_labels(d: Decomposition) -> Labels | None:
    """The label function of the target; None for networks that have none or whose files do not say.

    TMS: its input. Residual MLP: ``act(c x) + x`` or ``|c x|`` with the coefficients of its training.
    """
    if isinstance(d.target, TMS):
        return _same
    if not isinstance(d.target, ResidMLP):
        return None
    folder = _folder(d)
    if folder is None or not (folder / "resid_mlp_train_config.yaml").is_file():
        return None
    trained = read_yaml(folder / "resid_mlp_train_config.yaml")
    n = d.target.config.n_features
    found = _saved(folder / "label_coeffs.json")
    if found is None or found.shape not in ((n,), (1, n), (d.n_instances, n)):
        seed = trained.get("label_fn_seed")
        found = label_coefficients(n, int(seed or 0), bool(trained.get("use_trivial_label_coeffs", True)))
    kind: Any = trained.get("label_type", "act_plus_resid")
    # One row for all, or one for each network.
    shared = found.reshape(n) if found.numel() == n else found
    return ResidLabels(shared, kind, d.target.config.act_fn_name)


def monosemantic(d: Decomposition, x: Tensor, labels: Labels) -> Tensor:
    """Output of the solution that gives each neuron to one feature (original APD code).

    TMS: the first ``n_hidden`` features come back, the others are 0. Residual MLP: as many features as there
    are neurons in all layers have their label, the others their input.
    """
    out = x.clone()
    if isinstance(d.target, TMS):
        out[..., d.target.config.n_hidden :] = 0
        return out
    assert isinstance(d.target, ResidMLP)
    neurons = d.target.config.d_mlp * d.target.config.n_layers
    out[..., :neurons] = labels(x)[..., :neurons]
    return out


def _same(x: Tensor) -> Tensor:
    return x


def _folder(d: Decomposition) -> Path | None:
    if d.run is not None:
        return d.run.path
    if d.source is None:
        return None
    return d.source if d.source.is_dir() else d.source.parent


def _saved(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float32)
    except (ValueError, TypeError):
        raise MicrotomeError(f"{path}: not a JSON list of numbers; copy it again from its run") from None
