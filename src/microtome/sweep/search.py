"""Which parameters each trial gets: every combination, random draws, or a Bayesian search.

A search keeps no state of its own: a proposal depends on the seed, the trial's index and what is recorded,
so a sweep that was killed proposes the same again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from microtome.core.errors import MicrotomeError
from microtome.sweep.distributions import grid_values, quantile
from microtome.sweep.parameters import Parameter, Space
from microtome.sweep.record import Trial
from microtome.sweep.spec import SweepSpec


@dataclass(frozen=True)
class Proposal:
    """The parameters of a trial, by dotted name, and the experiment it belongs to, if there are several."""

    parameters: dict[str, Any]
    experiment: str | None = None


@runtime_checkable
class Search(Protocol):
    """A source of trials."""

    total: int
    """How many trials there will be."""
    ahead: bool
    """Whether proposals do not depend on results, so that all are known at the start."""

    def propose(self, index: int, trials: Sequence[Trial]) -> Proposal:
        """The parameters of trial ``index``, given what the others did."""
        ...


class GridSearch:
    """Every combination, the last parameter varying fastest; several experiments one after the other."""

    ahead = True

    def __init__(self, spaces: Mapping[str | None, Space], limit: int | None = None) -> None:
        self._grids = [
            (experiment, {name: grid_values(name, parameter) for name, parameter in space.parameters.items()})
            for experiment, space in spaces.items()
        ]
        self._sizes = [math.prod(map(len, grid.values())) for _, grid in self._grids]
        self.total = min(sum(self._sizes), limit or sum(self._sizes))

    def propose(self, index: int, trials: Sequence[Trial] = ()) -> Proposal:  # noqa: ARG002
        """Combination ``index``, in the order of ``itertools.product``."""
        for (experiment, grid), size in zip(self._grids, self._sizes, strict=True):
            if index >= size:
                index -= size
                continue
            chosen = {}
            for name, values in reversed(grid.items()):
                index, place = divmod(index, len(values))
                chosen[name] = values[place]
            return Proposal({name: chosen[name] for name in grid}, experiment)
        raise IndexError(index)


class RandomSearch:
    """Independent draws; trial ``index`` draws the same numbers whenever it is asked."""

    ahead = True

    def __init__(self, space: Space, total: int, seed: int) -> None:
        self.total, self._space, self._seed = total, space, seed

    def propose(self, index: int, trials: Sequence[Trial] = ()) -> Proposal:  # noqa: ARG002
        """Draw ``index``."""
        numbers = np.random.default_rng([self._seed, index])
        return Proposal({name: quantile(p, numbers.random()) for name, p in self._space.parameters.items()})


def build_search(spec: SweepSpec, space: Space, count: int | None, seed: int) -> Search:
    """The search that a sweep file asks for. Raises ``MicrotomeError``, for a search without an end too."""
    limit = min((n for n in (count, spec.run_cap) if n is not None), default=None)
    if spec.method == "grid":
        return GridSearch({None: space}, limit)
    if limit is None:
        raise MicrotomeError(
            f"method={spec.method!r}: has no end of its own; give --count N, or run_cap: N in the file"
        )
    if spec.method == "random":
        return RandomSearch(space, limit, seed)
    from microtome.sweep.bayes import BayesSearch

    assert spec.metric is not None
    return BayesSearch(space, limit, seed, spec.metric)


def varying(parameters: Mapping[str, Parameter]) -> list[str]:
    """The names of the parameters that trials differ in."""
    return [name for name, parameter in parameters.items() if not parameter.fixed]
