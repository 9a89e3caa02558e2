"""Causal importances over batches: L0, histograms, mean and density of each component, who is alive.

Importances come as ``[K, N, C]``, N counting rows and positions; memory goes by components, not by rows.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import bad_value
from microtome.decomposition.evaluation.series import Series

# Multiples of 1/50, so that 0 and 1 are edges exactly; what lies outside counts in the outermost bins.
HISTOGRAM_EDGES = (np.arange(61) - 5) / 50
ALL_SITES = "all"
Importances = Mapping[str, Float[Tensor, "K N C"]]


class L0:
    """Mean number of components with causal importance above ``threshold`` per input.

    By site, over all sites, and over named groups of sites (shell-style patterns). Source: CI_L0 of the
    later SPD code.
    """

    def __init__(
        self,
        sites: Sequence[str],
        threshold: float = 0.0,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.threshold = threshold
        self.series: dict[str, Series] = {name: Series() for name in sites}
        self.groups = {ALL_SITES: list(sites)} if len(sites) > 1 else {}
        self.groups |= groups_of(sites, groups or {})
        self.series |= {name: Series() for name in self.groups}

    def update(self, lower: Importances) -> None:
        """One more batch."""
        found = {name: (ci > self.threshold).sum(-1).double().mean(-1) for name, ci in lower.items()}
        for name, value in found.items():
            self.series[name].add(value)
        for name, members in self.groups.items():
            self.series[name].add(torch.stack([found[member] for member in members]).sum(0))


def groups_of(sites: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Group to the sites that any of its patterns match. Raises ``MicrotomeError`` where none does."""
    out: dict[str, list[str]] = {}
    for group, patterns in groups.items():
        out[group] = [site for site in sites if any(fnmatchcase(site, pattern) for pattern in patterns)]
        if not out[group]:
            there = f"sites: {', '.join(sites)}"
            raise bad_value(f"groups.{group}", ", ".join(patterns), "matches no site", there)
    return out


class Histograms:
    """How often each site's causal importances take which values, over inputs and components."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}

    def update(self, lower: Importances) -> None:
        """One more batch."""
        for name, ci in lower.items():
            edges = torch.as_tensor(HISTOGRAM_EDGES, dtype=ci.dtype, device=ci.device)
            bins = len(edges) - 1
            # Right-open bins; the last one is closed, and holds what lies beyond it.
            index = (torch.bucketize(ci.flatten(1), edges, right=True) - 1).clamp(0, bins - 1)
            seeds = torch.arange(len(ci), device=ci.device).unsqueeze(1) * bins
            counted = torch.bincount((index + seeds).flatten(), minlength=len(ci) * bins).view(-1, bins)
            self.counts[name] = self.counts[name] + counted if name in self.counts else counted

    def arrays(self) -> dict[str, np.ndarray]:
        """``histogram/<site>`` [K, bins] and ``histogram_edges`` [bins + 1]."""
        found = {f"histogram/{name}": counts.cpu().numpy() for name, counts in self.counts.items()}
        return {**found, "histogram_edges": HISTOGRAM_EDGES}


class PerComponent:
    """Each component's mean causal importance, and the share of inputs on which it is above a threshold."""

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold
        self._n: dict[str, int] = {}  # by site: one that runs twice sees twice as many
        self._sum: dict[str, Tensor] = {}
        self._active: dict[str, Tensor] = {}

    def update(self, lower: Importances) -> None:
        """One more batch."""
        for name, ci in lower.items():
            self._n[name] = self._n.get(name, 0) + ci.shape[1]
            active = (ci > self.threshold).sum(1)
            total = ci.sum(1, dtype=torch.float64)
            self._sum[name] = self._sum[name] + total if name in self._sum else total
            self._active[name] = self._active[name] + active if name in self._active else active

    def mean(self) -> dict[str, Float[np.ndarray, "K C"]]:
        """Mean causal importance, by site."""
        return {name: (total / self._n[name]).cpu().numpy() for name, total in self._sum.items()}

    def density(self) -> dict[str, Float[np.ndarray, "K C"]]:
        """Share of inputs on which a component is active, by site."""
        return {name: (count.double() / self._n[name]).cpu().numpy() for name, count in self._active.items()}


class Alive:
    """Which components still fire: importance above ``threshold`` within the last ``until_dead`` inputs.

    Before ``until_dead`` inputs have been seen, a component that has not fired yet is undecided, not dead.
    Without ``until_dead`` all that are seen count, and what never fires is dead. An input is a row, or a
    position of one (a token). Source: n_examples_until_dead of the later SPD code, counted in inputs where
    that counts in batches.
    """

    def __init__(self, threshold: float = 0.0, until_dead: int | None = None) -> None:
        self.threshold, self.until_dead = threshold, until_dead
        self._since: dict[str, Tensor] = {}
        self._ever: dict[str, Tensor] = {}

    def update(self, lower: Importances) -> None:
        """One more batch; rows count in their order."""
        for name, ci in lower.items():
            rows = ci.shape[1]
            fires = ci > self.threshold
            ever = fires.any(1)
            # Rows after the last one that fires: the first hit, counted from the end.
            after = fires.flip(1).to(torch.uint8).argmax(1)
            before = self._since.get(name, torch.zeros_like(after))
            self._since[name] = torch.where(ever, after, before + rows)
            self._ever[name] = self._ever[name] | ever if name in self._ever else ever

    def alive(self) -> dict[str, np.ndarray]:
        """Whether each component ``[K, C]`` has fired within the last ``until_dead`` inputs."""
        if self.until_dead is None:
            return {name: ever.cpu().numpy() for name, ever in self._ever.items()}
        return {
            n: (self._ever[n] & (since < self.until_dead)).cpu().numpy() for n, since in self._since.items()
        }

    def dead(self) -> dict[str, np.ndarray]:
        """Whether each component ``[K, C]`` has kept silent for ``until_dead`` inputs or more."""
        if self.until_dead is None:
            return {name: ~alive for name, alive in self.alive().items()}
        return {n: (since >= self.until_dead).cpu().numpy() for n, since in self._since.items()}
