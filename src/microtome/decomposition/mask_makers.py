"""The masks of reconstruction losses, each made when its site runs and kept no longer than its pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from microtome.decomposition.routing import Routes
from microtome.decomposition.site_masks import DrawnMask, Masks, SiteMask

if TYPE_CHECKING:
    from microtome.decomposition.step import Step


class LazyMasks(Mapping[str, Sequence[SiteMask]]):
    """Masks by site that are made when asked for, the same each time: ``make(site, call)``."""

    def __init__(self, calls: Mapping[str, int], make: Callable[[str, int], SiteMask]) -> None:
        self._calls, self._make = dict(calls), make

    def __getitem__(self, name: str) -> Sequence[SiteMask]:
        return _LazyCalls(self._calls[name], lambda call: self._make(name, call))

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)


class _LazyCalls(Sequence[SiteMask]):
    def __init__(self, n: int, make: Callable[[int], SiteMask]) -> None:
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, call: int) -> SiteMask: ...
    @overload
    def __getitem__(self, call: slice) -> Sequence[SiteMask]: ...
    def __getitem__(self, call: int | slice) -> SiteMask | Sequence[SiteMask]:
        if isinstance(call, slice):
            return [self._make(i) for i in range(self._n)[call]]
        return self._make(range(self._n)[call])


def stochastic_masks(step: "Step", routes: Routes) -> Masks:
    """Masks uniform between the causal importances and 1, fresh at every call of this function.

    The delta component, where it is in use, is weighed by a number uniform in [0, 1) at every position. With
    ``sampling: binomial`` a subcomponent is on or as important as it is, each with probability 1/2.
    """
    sites = _calls(step, routes)
    keys = {name: [(step.draws.key(), step.draws.key()) for _ in range(n)] for name, n in sites.items()}

    def make(name: str, call: int) -> SiteMask:
        lower = step.lower[name][call]
        for_components, for_delta = keys[name][call]
        source = step.draws.uniform(for_components, lower.shape, step.rows, lower)
        if step.sampling == "binomial":
            source = (source < 0.5).to(lower.dtype)
        delta = step.draws.uniform(for_delta, lower.shape[:-1], step.rows, lower) if step.use_delta else None
        return DrawnMask(lower, source, delta, routes[name])

    return LazyMasks(sites, make)


def importance_masks(step: "Step", routes: Routes) -> Masks:
    """The causal importances themselves as masks; the delta component is left out."""
    return LazyMasks(
        _calls(step, routes), lambda name, call: SiteMask(step.lower[name][call], None, routes[name])
    )


def full_masks(step: "Step", routes: Routes) -> Masks:
    """Every subcomponent at its full weight; the delta component is left out."""

    def make(name: str, call: int) -> SiteMask:
        lower: Tensor = step.lower[name][call]
        ones = torch.ones((1,) * (lower.ndim - 1) + lower.shape[-1:], dtype=lower.dtype, device=lower.device)
        return SiteMask(ones, None, routes[name])

    return LazyMasks(_calls(step, routes), make)


def _calls(step: "Step", routes: Routes) -> dict[str, int]:
    return {name: len(step.lower[name]) for name in routes}
