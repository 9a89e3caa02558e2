"""Decompositions whose mechanisms are known, as the package's own classes hold them."""

from pathlib import Path

import torch
from old_layouts import write_apd_run, write_spd_paper_run

from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.labels import true_labels
from microtome.decomposition.interpret.subject import Subject
from microtome.decomposition.result import Decomposition, load

N_SAMPLES = 400


def planted(folder: Path, method: str, task: str, **sizes) -> Decomposition:
    """Columns of W copied into components, whose gates open for their own feature alone."""
    write = write_apd_run if method == "apd" else write_spd_paper_run
    if not folder.exists():
        write(folder, task, **sizes)
    return load(folder)


def subject(d: Decomposition, **settings) -> Subject:
    """``d`` with the sparse inputs it was trained on and its true labels."""
    config = InterpretConfig(**{"n_samples": N_SAMPLES, **settings})
    assert d.data is not None
    values = {k: v for k, v in d.data.items() if k not in ("kind", "value_range")}
    source = SparseFeatures(**values, value_range=tuple(d.data["value_range"]))
    return Subject(d, config, source, true_labels(d))


def disturbed(d: Decomposition, amount: float = 0.3) -> Decomposition:
    """The same with noise on every component, so that nothing is 0 or equal by construction."""
    draws = torch.Generator().manual_seed(5)
    noisy = {
        name: value + amount * torch.randn(value.shape, generator=draws)
        if name.startswith("components") or name.endswith((".A_T", ".B"))
        else value
        for name, value in d.parameters.items()
    }
    return Decomposition(d.config, d.target, noisy, d.data, sites=list(d.sites), name=d.name, source=d.source)
