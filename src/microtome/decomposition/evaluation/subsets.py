"""The output with stochastic masks at chosen sites only: which part of a network is taken apart badly."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch

from microtome.core.errors import bad_value
from microtome.decomposition.evaluation.importances import groups_of
from microtome.decomposition.evaluation.recon import under_masks
from microtome.decomposition.evaluation.seen import Seen
from microtome.decomposition.evaluation.series import Series
from microtome.decomposition.mask_makers import stochastic_masks


def site_subsets(
    sites: Sequence[str], include: Mapping[str, Sequence[str]], exclude: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Subset to its sites: those that a pattern includes, or those that no pattern excludes.

    Raises ``MicrotomeError`` for a pattern that includes nothing or leaves nothing.
    """
    subsets = groups_of(sites, include)
    for name, patterns in exclude.items():
        subsets[name] = [s for s in sites if not any(fnmatchcase(s, pattern) for pattern in patterns)]
        if not subsets[name]:
            raise bad_value(
                f"exclude_patterns.{name}", ", ".join(patterns), "leaves no site", "exclude fewer"
            )
    return subsets


class Subsets:
    """``<measure>/subset/<name>``: errors with the sites of a subset masked and all others as trained.

    Source: StochasticReconSubsetCEAndKL of the later SPD code.
    """

    def __init__(self, subsets: Mapping[str, Sequence[str]], n_mask_samples: int = 1) -> None:
        self.subsets, self.n_mask_samples = subsets, n_mask_samples
        self.series: dict[str, Series] = {}

    @torch.no_grad()
    def update(self, seen: Seen) -> None:
        """One more batch."""
        for name, sites in self.subsets.items():
            draws = [
                under_masks(seen, stochastic_masks(seen.step, dict.fromkeys(sites)))
                for _ in range(self.n_mask_samples)
            ]
            for measure in draws[0]:
                value = torch.stack([draw[measure] for draw in draws]).mean(0)
                self.series.setdefault(f"{measure}/subset/{name}", Series()).add(value)
