"""Causal importances of one feature at a time, against the pattern that a toy model's mechanisms give."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from jaxtyping import Float

from microtome.core.errors import bad_value
from microtome.decomposition.metric_configs import DenseSites, IdentityCIError, IdentitySites
from microtome.decomposition.result import Decomposition
from microtome.measures.causal_importance import dense_columns_error, identity_error
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

PROBE = 0.75  # value of the one feature that is on, as in the papers' pictures
TOLERANCES = (0.1, 0.2)
Pattern = IdentitySites | DenseSites


@dataclass
class Identity:
    """``importances[site]`` [K, n, C] of single features, and how many entries are off.

    ``errors[site][tolerance]`` is [K]; ``refused`` says why a site could not be compared.
    """

    importances: dict[str, Float[np.ndarray, "K n C"]]
    patterns: dict[str, Pattern]
    errors: dict[str, dict[float, np.ndarray]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def total(self, tolerance: float = TOLERANCES[0]) -> np.ndarray | None:
        """Entries off at all sites, ``[K]``; None where no site could be compared."""
        if not self.errors:
            return None
        return np.sum([found[tolerance] for found in self.errors.values()], axis=0)


def identity(d: Decomposition, config: IdentityCIError | None = None) -> Identity | None:
    """Compare; None for a network whose inputs are no features, or without gates.

    ``config`` names the patterns; without one they are what the architecture gives: a component a feature
    where features are read or written, as many as there are hidden neurons where those are written. Source:
    IdentityCIError of the later SPD code. Raises ``MicrotomeError`` for a pattern that matches no site.
    """
    if not isinstance(d.target, TMS | ResidMLP) or d.method != "spd":
        return None
    n = d.target.config.n_features
    device = next(iter(d.parameters.values())).device
    found = d.causal_importances((PROBE * torch.eye(n, device=device)).expand(d.n_instances, n, n))
    if found is None:
        return None
    importances = {name: ci.lower.cpu().numpy() for name, ci in found.items()}
    given = [*(config.identity_ci or ()), *(config.dense_ci or ())] if config else []
    patterns = matched(given, list(importances)) if given else _of_architecture(d, list(importances))
    out = Identity(importances, patterns)
    for name, pattern in patterns.items():
        _compare(out, name, pattern)
    return out


def matched(patterns: Sequence[Pattern], sites: Sequence[str]) -> dict[str, Pattern]:
    """Site to the first pattern that matches its name."""
    for pattern in patterns:
        if not any(fnmatchcase(site, pattern.layer_pattern) for site in sites):
            raise bad_value(
                "layer_pattern", pattern.layer_pattern, "matches no site", f"sites: {', '.join(sites)}"
            )
    found = {}
    for site in sites:
        mine = [pattern for pattern in patterns if fnmatchcase(site, pattern.layer_pattern)]
        if mine:
            found[site] = mine[0]
    return found


def _of_architecture(d: Decomposition, sites: Sequence[str]) -> dict[str, Pattern]:
    assert isinstance(d.target, TMS | ResidMLP)
    n_features = d.target.config.n_features
    if isinstance(d.target, TMS):
        dense, k = "hidden_layers.*", d.target.config.n_hidden
    else:
        dense, k = "*.mlp_out", d.target.config.d_mlp
    return {
        site: DenseSites(layer_pattern=site, k=k)
        if fnmatchcase(site, dense)
        else IdentitySites(layer_pattern=site, n_features=n_features)
        for site in sites
    }


def _compare(out: Identity, name: str, pattern: Pattern) -> None:
    ci = out.importances[name]
    need = pattern.k if isinstance(pattern, DenseSites) else pattern.n_features
    if ci.shape[-1] < need:
        out.refused[name] = f"C={ci.shape[-1]} is below the {need} components that the pattern has"
        return
    if isinstance(pattern, IdentitySites) and ci.shape[1] != need:
        out.refused[name] = f"the target has {ci.shape[1]} features, the pattern {need}"
        return

    def error(one: np.ndarray, tolerance: float) -> int:
        if isinstance(pattern, DenseSites):
            return dense_columns_error(one, pattern.k, tolerance)
        return identity_error(one, tolerance)

    out.errors[name] = {t: np.array([error(one, t) for one in ci], dtype=float) for t in TOLERANCES}
