"""Everything that an evaluation measured, before anything is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from microtome.decomposition.evaluation.series import Series, estimate, recovered

ROUNDING = 1e-7  # of single precision: two distances below this share of the largest are both nothing


@dataclass
class Measured:
    """Numbers by name, each with a value a seed.

    ``series``: measured on every batch, ``<measure>/<masking>[/<site>]``. ``fixed``: measured once, of the
    weights or over all batches together. ``refused``: why a metric does not apply.
    """

    n_seeds: int
    method: str
    sites: list[str]
    components: dict[str, int]
    """How many there are at each site; APD's, which span all sites, once."""
    distance: str
    """``mse`` or ``kl``: how outputs are compared with the target's."""
    inputs_seen: int = 0
    """Rows, or positions of them where they have several."""
    series: dict[str, Series] = field(default_factory=dict)
    fixed: dict[str, Float[np.ndarray, " K"]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    """What else a reader must know of a metric, by its name."""

    @property
    def quality(self) -> str:
        """The measure that shares recovered are of: cross-entropy where the truth is known."""
        return "ce" if "ce/target" in self.series else self.distance

    def has(self, *names: str) -> bool:
        """Whether all of these series were measured."""
        return all(name in self.series for name in names)

    def share_recovered(self, masking: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Of what ablating everything costs, the share that comes back under ``masking``; standard error."""
        measure = self.quality
        ablated, found = self.series[f"{measure}/ablated"], self.series[f"{measure}/{masking}"]
        if measure == "ce":
            return estimate(recovered, self.series["ce/target"], found, ablated)
        return estimate(lambda f, a: recovered(np.zeros_like(a), f, a), found, ablated)

    def ratio(self, over: str, under: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Distance to the target under one masking over that under another; standard error.

        Distances below ``ROUNDING`` of what ablating everything gives count as that much.
        """
        ablated = f"{self.distance}/ablated"
        least = ROUNDING * self.series[ablated].mean if self.has(ablated) else np.zeros(self.n_seeds)

        def logarithm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = np.maximum(a, least), np.maximum(b, least)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(a == b, 0.0, np.log(a) - np.log(b))

        # By the logarithm, whose error is the more even one; that of the ratio is as many times larger.
        found = estimate(logarithm, *(self.series[f"{self.distance}/{name}"] for name in (over, under)))
        value = np.exp(found[0])
        return value, None if found[1] is None else value * found[1]

    def by_site(self, measure: str, sites: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """``<measure>/<site>`` of every site that has it, in order: [K] each."""
        found: Mapping[str, np.ndarray] = {name: s.mean for name, s in self.series.items()} | self.fixed
        names = self.components if sites is None else sites
        return {site: found[f"{measure}/{site}"] for site in names if f"{measure}/{site}" in found}
