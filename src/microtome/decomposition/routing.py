"""Which sites a loss masks: all, one at a time, or a random subset at every position."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.loss_configs import StaticProbability, UniformKSubset

if TYPE_CHECKING:
    from microtome.decomposition.step import Step

Routes = dict[str, Bool[Tensor, "K *B"] | None]
"""The sites that are masked, each with where it is (None: everywhere)."""


def route(
    step: "Step",
    sites: Literal["all", "layerwise", "subset"],
    routing: UniformKSubset | StaticProbability | None = None,
) -> Iterator[tuple[float, Routes]]:
    """The passes of a loss: each one's share of the loss, and the sites that are masked in it.

    ``all``: one pass. ``layerwise``: a pass for each site alone, equal shares. ``subset``: one pass in which
    every position masks its own subset, drawn as ``routing`` says (``uniform_k_subset`` without it).
    """
    names = list(step.network.sites)
    if sites == "all":
        yield 1.0, dict.fromkeys(names)
    elif sites == "layerwise":
        for name in names:
            yield 1.0 / len(names), {name: None}
    else:
        yield 1.0, _subset(step, names, routing or UniformKSubset())


def _subset(step: "Step", names: Sequence[str], routing: UniformKSubset | StaticProbability) -> Routes:
    shape, like = _positions(step)
    draws = step.draws
    numbers = draws.uniform(draws.key(), (*shape, len(names)), step.rows, like)
    if isinstance(routing, StaticProbability):
        chosen = numbers < routing.p
    else:
        sizes = draws.uniform(draws.key(), shape, step.rows, like)
        chosen = uniform_k_subset(numbers, sizes)
    return {name: chosen[..., i].contiguous() for i, name in enumerate(names)}


def uniform_k_subset(numbers: Float[Tensor, "*B M"], sizes: Float[Tensor, "*B"]) -> Bool[Tensor, "*B M"]:
    """Subsets of M things: k uniform in 1 to M out of ``sizes``, then the k with the smallest ``numbers``.

    Both are uniform in [0, 1).
    """
    m = numbers.shape[-1]
    k = (sizes * m).floor().clamp(max=m - 1) + 1
    rank = numbers.argsort(-1).argsort(-1)
    return rank < k.unsqueeze(-1)


def _positions(step: "Step") -> tuple[tuple[int, ...], Tensor]:
    """The shape of rows and positions that all sites have in common: the rows alone, where they differ."""
    shapes = {tuple(call.shape[:-1]) for calls in step.lower.values() for call in calls}
    like = next(iter(step.lower.values()))[0]
    return (next(iter(shapes)) if len(shapes) == 1 else tuple(like.shape[:2])), like
